"""The figures of a run on held-out images: every image once, whatever the last batch, and the same keys each time."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import PyTree

from rqjax.data import HeldOut
from rqjax.errors import InputError
from rqjax.interface import Stage, State
from rqjax.metrics import code_use
from rqjax.run.config import Config
from rqjax.run.training_step import Placement

PREFIX = "eval_"
"""In front of the names of held-out figures, beside those of training."""
KEYS = 2**32 - 1
"""Folded into the run's key: a number that no step has, so that validation draws from keys of its own."""


class Validation:
    """The held-out split of a run, and its compiled evaluation. Nothing of it changes the state or the next step.

    Raises InputError if the data has no such split.
    """

    def __init__(self, config: Config, stage: Stage, placement: Placement):
        together = config.data.batch // config.stage.microbatches
        self._images = HeldOut(config.data, config.eval_split, together, placement.mesh, config.eval_batches)
        self._key = jax.random.fold_in(jax.random.key(config.seed), KEYS)
        whole = placement.whole
        self._sums = jax.jit(
            stage.evaluate,
            in_shardings=(placement.sharding, whole, placement.rows, None),
            out_shardings=whole,
        )

    def warm(self, state: State, frozen: PyTree) -> None:
        """Compiles the evaluation, by a first batch that is not looked at."""
        jax.block_until_ready(self._sums(state, frozen, next(iter(self._images)), self._key))

    def figures(self, state: State, frozen: PyTree) -> dict[str, float]:
        """The mean of each figure over the images, `eval_NAME`; of the codes of each book, usage and perplexity.

        Sums over batches are in float64. A figure of a prior whose images have unlike numbers of codes is the mean of
        batches, each with the weight of its images. Raises InputError if no image could be read.
        """
        totals: dict[str, np.ndarray] = {}
        for index, batch in enumerate(self._images):
            sums = self._sums(state, frozen, batch, jax.random.fold_in(self._key, index))
            for name, value in jax.device_get(sums).items():
                totals[name] = np.asarray(totals.get(name, 0.0) + np.float64(value))
        images = float(totals.pop("images"))
        if not images:
            raise InputError("none of the held-out images can be read: look at the files, or set eval_every=0")
        figures = {}
        for name, value in totals.items():
            figures |= _use(name.removeprefix("codes"), value) if value.ndim else {name: float(value) / images}
        return {PREFIX + name: value for name, value in figures.items()}


def _use(end: str, hits: np.ndarray) -> Mapping[str, float]:
    """Of one book: the share of it that occurs, and the number of equally frequent codes with the same entropy."""
    found = code_use(hits)
    return {name + end: found[name] for name in ("usage", "perplexity")}
