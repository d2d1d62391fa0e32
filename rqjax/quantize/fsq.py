"""Finite scalar quantization: each dimension of a bounded vector is rounded to one of a few levels.

After Mentzer et al. (2023). Nothing is learned and nothing restarts; there is no loss. In residual FSQ,
each depth rounds what the depths before left over, with levels that are closer by the factor L - 1.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rqjax.quantize.pytree import pytree, static
from rqjax.quantize.residual import Book

SLACK = 1e-3
"""The share by which the bound stays within the outermost levels, as in the paper."""


@pytree
@dataclasses.dataclass(frozen=True)
class FSQ(Book):
    """The book of one depth: all combinations of levels, the first dimension's changing fastest from code to code.

    Units: neighbouring levels of depth 0 differ by 1 / (L // 2), so its vectors lie in [-1, 1]. L levels of it are
    -(L // 2) and up, so that 0 is one of them. Those of later depths stand symmetrically over the width of one rounding
    of the depth before, which they cut into L - 1 parts.
    """

    levels: tuple[int, ...] = static()  # of each dimension, at least 3
    index: int = static(0)  # the depth, from 0

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        return len(self.levels)

    @property
    def _grid(self) -> tuple[Float[np.ndarray, "dim"], Float[np.ndarray, "dim"]]:
        """The lowest level of each dimension, and the distance of its levels."""
        levels = np.asarray(self.levels)
        distance = (levels - 1.0) ** -self.index / (levels // 2)
        lowest = -(levels // 2) if self.index == 0 else -(levels - 1) / 2
        return (lowest * distance).astype(np.float32), distance.astype(np.float32)

    def project(self, z: Float[Array, "*grid dim"]) -> Float[Array, "*grid dim"]:
        """The vectors squeezed by tanh between the outermost levels; 0 stays 0."""
        levels = np.asarray(self.levels)
        half = (levels - 1) * (1 - SLACK) / 2
        offset = (levels % 2 == 0) / 2  # an even number of levels has half a level more below 0
        shift = np.arctanh(offset / half).astype(np.float32)
        bounded = jnp.tanh(z + shift) * half.astype(np.float32) - offset.astype(np.float32)
        return bounded / (levels // 2).astype(np.float32)

    def nearest(self, x: Float[Array, "n dim"]) -> Int[Array, "n"]:
        lowest, distance = self._grid
        digits = jnp.clip(jnp.round((x - lowest) / distance), 0, np.asarray(self.levels) - 1)
        return jnp.sum(digits.astype(jnp.int32) * self._radix, axis=-1)

    def vectors(self, codes: Int[Array, "*grid"]) -> Float[Array, "*grid dim"]:
        lowest, distance = self._grid
        digits = codes[..., None] // self._radix % np.asarray(self.levels, np.int32)
        return jnp.asarray(lowest) + digits.astype(jnp.float32) * distance

    @property
    def _radix(self) -> Int[np.ndarray, "dim"]:
        """How many codes lie between neighbouring levels of each dimension."""
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)
