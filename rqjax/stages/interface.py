"""What the training loop knows of a stage: how its state begins, what it reads, one step, and pictures."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array

Batch = dict[str, Array]
"""`image` uint8 [b h w 3], `label` int32 [b]."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One kind of training, as functions.

    A state is a registered dataclass with a `step` (int32 scalar, the number of finished steps), a `model`, an `ema`
    of it (None when off) and the states of its optimizers. What is frozen is an argument of the step, never a constant
    inside it.
    """

    init: Callable[[Array], Any]
    """(key) -> state; pure, so that it can be jitted and evaluated for shapes."""

    frozen: Callable[[], Any]
    """() -> the shapes of what the stage reads but never trains; None if nothing."""

    load_frozen: Callable[[], Any]
    """() -> the same as arrays, from the files that the configuration names. Raises InputError if they don't serve."""

    train_step: Callable[[Any, Any, Batch, Array], tuple[Any, dict[str, Array]]]
    """(state, frozen, batch, key) -> (state, scalar metrics); pure, and meant to be jitted with the state donated. The
    key is this step's own. Losses and norms of gradients are among the metrics: a step with one that is not finite is
    skipped."""

    preview: Callable[[Any, Any, Batch, Array], dict[str, Array]]
    """(state, frozen, batch, key) -> uint8 images [n h w 3] by name; pure."""
