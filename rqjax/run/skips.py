"""Steps whose loss or gradient is not finite: they change nothing, and too many of them in a row end the run."""

import collections
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from rqjax.interface import Proposal


@runtime_checkable
class Counted(Protocol):
    """A training state, as far as it is read here: a dataclass that counts its steps."""

    @property
    def step(self) -> Int[Array, ""]: ...


Metrics = dict[str, Array]
S = TypeVar("S", bound=Counted)
B = TypeVar("B")


class Skips(NamedTuple):
    """The number of steps skipped since the program started, and of those that end the row of steps so far."""

    total: Int[Array, ""]
    in_a_row: Int[Array, ""]

    @classmethod
    def none(cls) -> "Skips":
        return cls(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def unguarded(
    propose: Callable[[S, PyTree, B, Key[Array, ""]], tuple[Proposal, Metrics]],
) -> Callable[[S, PyTree, B, Key[Array, ""]], tuple[S, Metrics]]:
    """Takes the step that `propose` makes, whatever its metrics are."""

    def step(state: S, frozen: PyTree, batch: B, key: Key[Array, ""]) -> tuple[S, Metrics]:
        take, metrics = propose(state, frozen, batch, key)
        return take(True), metrics

    return step


def guarded(
    propose: Callable[[S, PyTree, B, Key[Array, ""]], tuple[Proposal, Metrics]], max_skipped: int
) -> Callable[[S, Skips, PyTree, B, Key[Array, ""]], tuple[S, Skips, Metrics]]:
    """Takes the step that `propose` makes unless one of its metrics is NaN or infinite: then only `step` advances.

    Every stage reports its losses and the norms of its gradients. After `max_skipped` such steps in a row, all later
    steps are skipped too, so the loop can stop a few steps late without harm.
    """

    def step(state: S, skips: Skips, frozen: PyTree, batch: B, key: Key[Array, ""]) -> tuple[S, Skips, Metrics]:
        take, metrics = propose(state, frozen, batch, key)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(metrics)]))
        good = finite & (skips.in_a_row < max_skipped)
        skips = Skips(skips.total + ~good, jnp.where(good, 0, skips.in_a_row + 1))
        return take(good), skips, metrics | {"skipped": skips.total}

    return step


class SkipWatch:
    """Tells when too many steps in a row were skipped, without waiting for the devices."""

    LAG = 4
    """Steps after which the counts of a step are on the host anyway."""

    def __init__(self, max_skipped: int):
        self._max_skipped = max_skipped
        self._pending: collections.deque[tuple[int, Int[Array, ""]]] = collections.deque()

    def given_up_at(self, step: int, skips: Skips, *, last: bool = False) -> int | None:
        """The step at which `max_skipped` was reached, or None.

        Looks only at steps at least LAG old, whose values are already on the host; with `last`, at all of them.
        """
        self._pending.append((step, skips.in_a_row))
        while self._pending and (last or len(self._pending) > self.LAG):
            then, in_a_row = self._pending.popleft()
            if int(in_a_row) >= self._max_skipped:
                return then
        return None
