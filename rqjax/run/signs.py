"""Signs that a training goes wrong, read off the figures of its log: each a sentence with the likely remedy."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rqjax.interface import Codes, StageConfig
from rqjax.run.validation import PREFIX
from rqjax.stages.autoencode import AutoencodeConfig

SETTLED = 100
"""Steps after which codebooks and discriminators are judged: until then they find their place."""
LOW = 0.1
"""The share of the codes that random ones would use, below which usage is low."""
WORSE = {"reconstruction": 1.5, "loss": 1.25}
"""Figures that training and validation share, and how many times larger the held-out one may be."""
RECENT, EXPLODING = 20, 10.0
"""Logged norms of gradients that are remembered, and how many times larger than their median one may be."""
MARGIN = {"hinge": 1.0, "vanilla": 3.0}
"""The mean logit beyond which a discriminator is sure: the hinge has no slope there; the probability is 0.95."""


@dataclasses.dataclass(frozen=True)
class Sign:
    """A sentence, and its cause by a name that stays."""

    cause: str
    said: str


@dataclasses.dataclass(frozen=True)
class Books:
    """The codebooks of a tokenizer, as its figures name them."""

    sizes: Mapping[str, int]  # of each depth, "1" ...; none where all codes are of one book
    size: int  # of the largest
    vectors: int  # that a step brings to a book, at least

    @classmethod
    def of(cls, sizes: Codes, batch: int) -> "Books":
        """Those of a tokenizer with these `code_sizes`, in a training on batches of so many images."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(sizes)]
        by_depth = [leaf for leaf in leaves if leaf.ndim == 4]  # [1 h w depth]; grains and cells are [1 h w]
        depths = {str(d + 1): int(leaf[..., d].max()) for leaf in by_depth for d in range(leaf.shape[-1])}
        positions = min(math.prod(leaf.shape[1:3]) for leaf in leaves)
        return cls(depths, max(int(leaf.max()) for leaf in leaves), batch * positions)

    def reach(self, name: str) -> float:
        """The share of a book that a step's vectors would use if they fell on its codes by chance."""
        return 1 - math.exp(-self.vectors / self.of_name(name))

    def of_name(self, name: str) -> int:
        return self.sizes.get(name, self.size)


class Signs:
    """The figures of one run, looked at in the order of its log."""

    def __init__(self, stage: StageConfig, books: Books | None):
        self._books = books
        self._margin = MARGIN[stage.gan] if isinstance(stage, AutoencodeConfig) else math.inf
        self._norms: dict[str, collections.deque[float]] = {}
        self._training: dict[str, collections.deque[float]] = {name: collections.deque(maxlen=5) for name in WORSE}

    def of(self, step: int, values: Mapping[str, float]) -> list[Sign]:
        """The signs in the figures of `step`, those of training or `eval_` ones."""
        for name, kept in self._training.items():
            if math.isfinite(values.get(name, math.nan)):
                kept.append(values[name])
        found = [*self._gradients(values), *self._held_out(values)]
        if step >= SETTLED:
            found += [*self._codes(values), *self._discriminator(values)]
        return found

    def _codes(self, values: Mapping[str, float]) -> Iterator[Sign]:
        if (books := self._books) is None:
            return
        usage, restarted = (_by_end(values, stem) for stem in ("usage", "restarted"))
        low = {end: x for end, x in usage.items() if x < LOW * books.reach(end)}
        if low:
            yield Sign(
                "usage",
                f"{_named(low)}: a step uses {_shares(low)} of the codes, where its vectors could use"
                f" {books.reach(next(iter(low))):.0%}: try fewer codes (codebook_size), a larger data.batch, or"
                " restart_threshold=1 if it is 0",
            )
        many = {end: x * books.of_name(end) for end, x in restarted.items() if x * books.of_name(end) > 1.5}
        if many:
            counts = ", ".join(f"{x:,.0f}" for x in many.values())
            yield Sign(
                "restarts",
                f"{_named(many)}: {counts} codes were restarted in one step, as vectors of the very batch, so that"
                " training looks better than held-out images will: try a larger data.batch, fewer codes"
                " (codebook_size), or a lower restart_threshold",
            )

    def _held_out(self, values: Mapping[str, float]) -> Iterator[Sign]:
        for name, worse in WORSE.items():
            kept, held_out = self._training[name], values.get(PREFIX + name, math.nan)
            if kept and held_out > worse * statistics.mean(kept) > 0:
                first = "see to restarts of codes first, if there are; then " if name == "reconstruction" else ""
                yield Sign(
                    "held out",
                    f"{name} is {held_out:.3g} on held-out images, {held_out / statistics.mean(kept):.1f} times that of"
                    f" training: {first}try more images, data.flip=true or fewer steps; best/ keeps the best model",
                )
                return

    def _discriminator(self, values: Mapping[str, float]) -> Iterator[Sign]:
        real, fake = (values.get(f"logits_{name}", math.nan) for name in ("real", "fake"))
        if real > self._margin and fake < -self._margin:
            yield Sign(
                "discriminator",
                f"the discriminator wins: its mean logit is {real:.2g} for images and {fake:.2g} for reconstructions:"
                " try a lower discriminator_optimizer.learning_rate or disc_weight, or a later disc_start",
            )

    def _gradients(self, values: Mapping[str, float]) -> Iterator[Sign]:
        wrong = []
        for name in ("gradient_norm", "disc_gradient_norm"):
            if name not in values:
                continue
            kept, x = self._norms.setdefault(name, collections.deque(maxlen=RECENT)), values[name]
            usual = statistics.median(kept) if len(kept) >= 5 else math.inf
            if not math.isfinite(x):
                wrong.append(f"{name} is {x}")
            elif x > EXPLODING * usual > 0:
                wrong.append(f"{name} is {x:.3g}, {x / usual:.0f} times its median of late")
            if math.isfinite(x):
                kept.append(x)
        if wrong:
            yield Sign(
                "gradients",
                f"gradients explode: {', '.join(wrong)}: try a lower optimizer.learning_rate, a longer"
                " optimizer.warmup_steps, or optimizer.clip_norm=1",
            )


def _by_end(values: Mapping[str, Any], stem: str) -> dict[str, float]:
    """Figures of each depth by its number, or of all codes by ""."""
    found = {name.removeprefix(stem): x for name, x in values.items() if name.startswith(stem)}
    return {end.removeprefix("_"): x for end, x in found.items() if end == "" or end.removeprefix("_").isdigit()}


def _named(ends: Mapping[str, float]) -> str:
    depths = [end for end in ends if end]
    return f"depth {', '.join(depths)}" if depths else "the codebook"


def _shares(ends: Mapping[str, float]) -> str:
    return ", ".join(f"{x:.1%}" for x in ends.values())
