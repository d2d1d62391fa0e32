"""SimVQ: a frozen random codebook times one learned matrix, which moves all codes together (Zhu et al. 2024)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rqjax.quantize.pytree import pytree, static
from rqjax.quantize.residual import Book


@pytree
@dataclasses.dataclass(frozen=True)
class SimVQ(Book):
    """The vectors `frozen @ matrix`. Gradients train the matrix, by the distance of codes to what they stand for.

    No code is left behind, since every step moves all of them; nothing is averaged and nothing restarts.
    """

    frozen: Float[Array, "codes dim"]
    matrix: Float[Array, "dim dim"]
    commitment_weight: float = static(0.25)

    @property
    def size(self) -> int:
        return self.frozen.shape[0]

    @property
    def dim(self) -> int:
        return self.frozen.shape[1]

    @property
    def table(self) -> Float[Array, "codes dim"]:
        return _times(self.frozen, self.matrix)

    def vectors(self, codes: Int[Array, "*grid"]) -> Float[Array, "*grid dim"]:
        return _times(jax.lax.stop_gradient(self.frozen)[codes], self.matrix)

    @property
    def parameters(self) -> Float[Array, "dim dim"]:
        return self.matrix

    def with_parameters(self, parameters: Float[Array, "dim dim"]) -> "SimVQ":
        return dataclasses.replace(self, matrix=parameters)


def init_simvq(key: Key[Array, ""], codes: int, dim: int, *, commitment_weight: float = 0.25) -> SimVQ:
    """A book of N(0, 1 / dim) vectors, times a matrix drawn as PyTorch draws that of a linear layer."""
    frozen_key, matrix_key = jax.random.split(key)
    return SimVQ(
        frozen=jax.random.normal(frozen_key, (codes, dim)) * dim**-0.5,
        matrix=jax.random.uniform(matrix_key, (dim, dim), minval=-(dim**-0.5), maxval=dim**-0.5),
        commitment_weight=commitment_weight,
    )


def _times(x: Float[Array, "*grid dim"], matrix: Float[Array, "dim dim"]) -> Float[Array, "*grid dim"]:
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)  # near-ties of distances decide codes
