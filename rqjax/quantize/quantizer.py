"""The contract of quantizers: vectors [..., dim] to `depth` codes each, and back."""

import dataclasses
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key, PyTree, Scalar

from rqjax.quantize.pytree import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Quantized:
    """The result of a quantizer for vectors on a grid of any shape."""

    quantized: Float[Array, "*grid dim"]  # float32; the sum of all codes' vectors, with a gradient to the input
    codes: Int[Array, "*grid depth"]
    partial: Float[Array, "depth *grid dim"]  # sums of the vectors up to each depth
    loss: Float[Array, ""]  # the quantizer's own, weighted; to be added to the reconstruction's
    metrics: dict[str, Float[Array, "..."]]  # scalars, or one value for each depth


@runtime_checkable
class Quantizer(Protocol):
    """A pytree with pure methods. It knows vectors, not images; `depth` is the number of its `sizes`."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The codebook size of each depth."""

    @property
    def dim(self) -> int:
        """The width of a vector."""

    @property
    def parameters(self) -> PyTree[Array]:
        """The arrays that gradients train; None if there are none."""

    def with_parameters(self, parameters: PyTree[Array]) -> "Quantizer": ...

    def encode(self, z: Float[Array, "*grid dim"], key: Key[Array, ""], train: bool) -> tuple[Quantized, "Quantizer"]:
        """The codes of vectors, and the quantizer after it learned from them if `train`. Evaluation draws nothing."""

    def vectors(self, codes: Int[Array, "*grid d"]) -> Float[Array, "*grid d dim"]:
        """The vector of each code of the first `d` depths, not summed."""

    def embed(self, codes: Int[Array, "*grid d"]) -> Float[Array, "*grid dim"]:
        """The vectors that the codes of the first `d` depths stand for: the sum of their vectors."""


@runtime_checkable
class SoftQuantizer(Quantizer, Protocol):
    """A quantizer with a distribution over the codes of each depth, which a prior may learn (RQ, section 3.2.3)."""

    def draw(
        self, z: Float[Array, "b n dim"], key: Key[Array, ""], temperature: float | Scalar, stochastic: bool, chunk: int
    ) -> tuple[Int[Array, "b n depth"], Float[Array, "b n depth dim"]]:
        """Codes drawn from softmax(-squared distance / temperature), or the nearest, and the residuals they stand for.

        At most `chunk` positions of every row are held at a time, which changes no result.
        """

    def distribution(
        self, residuals: Float[Array, "*grid depth dim"], temperature: float | Scalar
    ) -> Float[Array, "*grid depth codes"]:
        """The probability of each code, given what `draw` left over; 0 for codes that a depth does not have."""
