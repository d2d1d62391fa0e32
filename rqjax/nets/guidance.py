"""Classifier-free guidance (Ho and Salimans 2022): away from what a prior would draw without its condition."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.errors import InputError
from rqjax.nets.condition import AnyCondition

SCHEDULES = ("constant", "linear", "power-cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """How far logits are moved: without + s (with - without), for those with and without the condition.

    `schedule` says how s grows over the positions i of n. "constant": `scale` throughout. "linear": from 1 to `scale`
    (VAR, Tian et al. 2024, whose t is scale - 1). "power-cosine": 1 + (scale - 1) (1 - cos(pi (i / n)^power)) / 2
    (RAR, Yu et al. 2024). `decay` is the factor on s - 1 from each stream to the next: from depth to depth of an
    RQ-Transformer, from contents to positions of a DQ-Transformer.
    """

    scale: float = 1.0  # 1 is none
    schedule: str = "constant"
    power: float = 1.0  # of power-cosine
    decay: float = 1.0

    @property
    def on(self) -> bool:
        """Whether it changes anything."""
        return self.scale != 1.0

    def check(self, field: str | None, dropout: float) -> None:
        """Raises InputError for values that cannot be used, or with a prior that has no other branch to move from: one
        without a condition's `field`, or trained without that `dropout` of it.
        """
        if self.schedule not in SCHEDULES:
            raise InputError(f"guidance_schedule is {self.schedule!r}: expected one of {', '.join(SCHEDULES)}")
        for name, value in (("guidance", self.scale), ("guidance_power", self.power), ("guidance_decay", self.decay)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is {value}: expected a number of at least 0")
        if self.on and field is None:
            raise InputError(f"guidance is {self.scale}, and this prior knows no classes: leave it out")
        if self.on and not dropout:
            raise InputError(
                f"guidance is {self.scale}, and this prior was trained with its {field} at all times:"
                " leave it out, or train one with --config.stage.model.condition_dropout=0.1"
            )

    def scales(self, positions: int, streams: int) -> Float[np.ndarray, "positions streams"]:
        """s at each position and stream."""
        at = np.arange(positions)
        shape = {
            "constant": np.ones(positions),
            "linear": at / max(positions - 1, 1),
            "power-cosine": (1 - np.cos(np.pi * (at / positions) ** self.power)) / 2,
        }[self.schedule]
        grown = (self.scale - 1) * shape[:, None] * self.decay ** np.arange(streams)
        return (1 + grown).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guide:
    """Guidance as arrays, so that other values compile nothing, and the ids of no condition for each image."""

    null: Int[Array, "b length"]
    scales: Float[Array, "positions streams"]


def guide_of(
    guidance: Guidance | None, condition: AnyCondition, dropout: float, images: int, positions: int, streams: int
) -> Guide | None:
    """The arrays of `guidance` for a prior trained with that dropout of its condition; None where it changes nothing.

    Raises InputError for values out of range, or a prior that was trained without dropout.
    """
    if guidance is None:
        return None
    guidance.check(condition.field, dropout)
    scales = jnp.asarray(guidance.scales(positions, streams))
    return Guide(condition.null(images), scales) if guidance.on else None


def branches(with_it: Array, without: Array) -> Array:
    """Rows [b ...] of both branches as one batch [2b ...]. An image's two rows lie side by side, on one device."""
    return rearrange(jnp.stack([with_it, without], axis=1), "b two ... -> (b two) ...")


def guided(logits: Float[Array, "rows ids"], scale: Float[Array, ""]) -> Float[Array, "b ids"]:
    """The logits of both branches as one for each image: without + scale (with - without)."""
    with_it, without = rearrange(logits, "(b two) ids -> two b ids", two=2)
    return without + scale * (with_it - without)


def left_out(
    condition: AnyCondition, ids: Int[Array, "b length"], key: Key[Array, ""], rate: float
) -> Int[Array, "b length"]:
    """The ids of a condition in training: for a share `rate` of the images those of no condition."""
    drop = jax.random.bernoulli(key, rate, (len(ids), 1))
    return jnp.where(drop, condition.null(len(ids)), ids)
