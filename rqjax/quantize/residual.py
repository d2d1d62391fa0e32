"""Residual quantization: a vector becomes a sum of `depth` codes, each the nearest to what those before left over."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree, Scalar

from rqjax.quantize import soft
from rqjax.quantize.distance import distances, nearest
from rqjax.quantize.dropout import keep_first
from rqjax.quantize.gradient import rotate, straight_through
from rqjax.quantize.histogram import perplexity, usage
from rqjax.quantize.pytree import pytree, static
from rqjax.quantize.quantizer import Quantized

BEGIN, DRAW, DROP = range(2**30, 2**30 + 3)
"""Numbers of the keys of options, where those of depths never come: without options, the same keys are drawn from."""


class Book:
    """One book of codes, as a ResidualQuantizer searches it at each depth; with depth=1, that makes it a Quantizer.

    A subclass has a `table`; or, without one, its own `size`, `dim`, `nearest` and `vectors`, and then no soft codes.
    It projects, learns and has parameters if it says so.
    """

    @property
    def commitment_weight(self) -> float:
        """The weight of the commitment in the loss of `encode`; a ResidualQuantizer has its own."""
        return 0.0

    @property
    def size(self) -> int:
        """The number of codes."""
        return self.table.shape[0]

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return self.table.shape[1]

    @property
    def table(self) -> Float[Array, "codes dim"]:
        """The vectors of all codes."""
        raise ValueError(f"{type(self).__name__} has no distribution over its codes: use its nearest codes")

    def project(self, z: Float[Array, "*grid dim"]) -> Float[Array, "*grid dim"]:
        """The vectors that are searched for and approximated in the place of `z`."""
        return z

    def nearest(self, x: Float[Array, "n dim"]) -> Int[Array, "n"]:
        """The nearest code of projected vectors, or of residuals of them."""
        return nearest(self.table, x)

    def vectors(self, codes: Int[Array, "*grid"]) -> Float[Array, "*grid dim"]:
        """The vector of each code."""
        return self.table[codes]

    def begin(self, x: Float[Array, "n dim"], key: Key[Array, ""]) -> "Book":
        """The book that a training batch is searched in."""
        return self

    def learn(
        self, x: Float[Array, "n dim"], codes: Int[Array, "n"], key: Key[Array, ""]
    ) -> tuple["Book", Float[Array, ""]]:
        """The book after the batch `x` fell on `codes`, and the share of its codes that were restarted."""
        return self, jnp.zeros(())

    @property
    def parameters(self) -> PyTree[Array]:
        """The arrays that gradients train; None if there are none."""
        return None

    def with_parameters(self, parameters: PyTree[Array]) -> "Book":
        return self

    def encode(self, z: Float[Array, "*grid dim"], key: Key[Array, ""], train: bool) -> tuple[Quantized, "Book"]:
        """The codes [*grid 1] of vectors, and the book after it learned from them if `train`, with `key` itself."""
        alone = ResidualQuantizer((self,), depth=1, commitment_weight=self.commitment_weight, update_once_per_step=True)
        found, after = alone.encode(z, key, train)
        return found, after.codebooks[0]


class Descent(NamedTuple):
    """The way of vectors [n dim] down the depths, one entry for each."""

    codes: list[Int[Array, "n"]]
    vectors: list[Float[Array, "n dim"]]  # of the codes, before the book learned
    residuals: list[Float[Array, "n dim"]]  # that the codes were chosen for
    partial: list[Float[Array, "n dim"]]  # sums of the vectors so far
    restarted: list[Float[Array, ""]]  # the share of the book
    codebooks: tuple[Book, ...]  # after they learned


@pytree
@dataclasses.dataclass(frozen=True)
class ResidualQuantizer:
    """A SoftQuantizer: the sum of `depth` codes for each vector (RQ-VAE, section 3.1), over any kind of book.

    One book is shared by all depths and learns after each of them, so later depths search a book that earlier depths
    changed; else there is one for each depth. Vectors may be of any float type; all computation is in float32.
    """

    codebooks: tuple[Book, ...]
    depth: int = static(4)
    commitment_weight: float = static(0.25)  # of the mean squared distance between vectors and partial sums
    update_once_per_step: bool = static(False)  # a shared book learns from all depths together, after the last
    restart_warning: float = static(0.5)  # share of restarted codes above which the metric `restart_warning` is 1
    gradient: str = static("straight_through")  # or "rotation"
    temperature: float = static(0.0)  # in training, codes are drawn from softmax(-distance / temperature); 0: nearest
    dropout: float = static(0.0)  # in training, how likely a row of the first axis keeps only its first codes
    dropout_from: int = static(1)  # it keeps this many or more, up to `depth`, drawn uniformly

    @property
    def sizes(self) -> tuple[int, ...]:
        sizes = tuple(book.size for book in self.codebooks)
        return sizes * self.depth if len(sizes) == 1 else sizes

    @property
    def dim(self) -> int:
        return self.codebooks[0].dim

    @property
    def parameters(self) -> PyTree[Array]:
        parameters = tuple(book.parameters for book in self.codebooks)
        return None if all(each is None for each in parameters) else parameters

    def with_parameters(self, parameters: PyTree[Array]) -> "ResidualQuantizer":
        if parameters is None:
            return self
        books = tuple(book.with_parameters(own) for book, own in zip(self.codebooks, parameters, strict=True))
        return dataclasses.replace(self, codebooks=books)

    def encode(
        self, z: Float[Array, "*grid dim"], key: Key[Array, ""], train: bool
    ) -> tuple[Quantized, "ResidualQuantizer"]:
        """The codes of vectors, and the quantizer after it learned from them if `train`.

        The loss is `commitment_weight` times the mean over depths of |z - partial sum|^2; books that gradients train
        add their own distance to the residuals that they were searched for.
        """
        x = self.codebooks[0].project(z.astype(jnp.float32))
        found = self._descend(jax.lax.stop_gradient(x).reshape(-1, self.dim), key, train)
        codes = jnp.stack(found.codes, axis=-1).reshape(*z.shape[:-1], self.depth)
        partial = jax.lax.stop_gradient(jnp.stack(found.partial)).reshape(self.depth, *z.shape)
        commitment = _mean_of_rows(x - partial)
        loss = self.commitment_weight * commitment
        if self.parameters is not None:
            distance = jnp.stack(found.residuals) - jnp.stack(found.vectors)
            loss = loss + _mean_of_rows(distance.reshape(self.depth, *z.shape))
        reached = partial[-1]
        if train and self.dropout:
            reached = keep_first(partial, jax.random.fold_in(key, DROP), self.dropout, self.dropout_from)
        through = rotate if self.gradient == "rotation" else straight_through
        quantized = Quantized(
            quantized=through(x, reached),
            codes=codes,
            partial=partial,
            loss=loss,
            metrics={"commitment": commitment, **self._metrics(codes, found.restarted)},
        )
        return quantized, dataclasses.replace(self, codebooks=found.codebooks)

    def _descend(self, x: Float[Array, "n dim"], key: Key[Array, ""], train: bool) -> Descent:
        books = list(self.codebooks)
        together = self.update_once_per_step and len(books) == 1
        residual, reached = x, jnp.zeros_like(x)
        codes, vectors, residuals, partial, restarted = [], [], [], [], []
        for index in range(self.depth):
            which = 0 if len(books) == 1 else index
            if train and which == index:
                books[which] = books[which].begin(residual, jax.random.fold_in(jax.random.fold_in(key, BEGIN), index))
            found = self._search(books[which], residual, key, index) if train else books[which].nearest(residual)
            step = books[which].vectors(found)  # from before the book learns
            if train and not together:
                books[which], share = books[which].learn(residual, found, jax.random.fold_in(key, index))
                restarted.append(share)
            codes.append(found)
            vectors.append(step)
            residuals.append(residual)
            step = jax.lax.stop_gradient(step)
            residual, reached = residual - step, reached + step
            partial.append(reached)
        if train and together:
            books[0], share = books[0].learn(jnp.concatenate(residuals), jnp.concatenate(codes), key)
            restarted = [share] * self.depth
        restarted = restarted or [jnp.zeros(())] * self.depth
        return Descent(codes, vectors, residuals, partial, restarted, tuple(books))

    def _search(self, book: Book, x: Float[Array, "n dim"], key: Key[Array, ""], index: int) -> Int[Array, "n"]:
        """The codes of a depth in training."""
        if not self.temperature:
            return book.nearest(x)
        key = jax.random.fold_in(jax.random.fold_in(key, DRAW), index)
        return jax.random.categorical(key, -distances(book.table, x) / self.temperature).astype(jnp.int32)

    def _metrics(self, codes: Int[Array, "*grid depth"], restarted: list[Array]) -> dict[str, Array]:
        shares = jnp.stack(restarted)
        by_depth = [(codes[..., index], size) for index, size in enumerate(self.sizes)]
        return {
            "usage": jnp.stack([usage(*depth) for depth in by_depth]),
            "perplexity": jnp.stack([perplexity(*depth) for depth in by_depth]),
            "restarted": shares,
            # restarted codes hold vectors of this very batch: training then looks better than evaluation
            "restart_warning": (jnp.max(shares) > self.restart_warning).astype(jnp.float32),
        }

    def vectors(self, codes: Int[Array, "*grid d"]) -> Float[Array, "*grid d dim"]:
        if len(self.codebooks) == 1:
            return self.codebooks[0].vectors(codes)
        by_depth = [self.codebooks[index].vectors(codes[..., index]) for index in range(codes.shape[-1])]
        return jnp.stack(by_depth, axis=-2)

    def embed(self, codes: Int[Array, "*grid d"]) -> Float[Array, "*grid dim"]:
        return jnp.sum(self.vectors(codes), axis=-2)

    def draw(
        self, z: Float[Array, "b n dim"], key: Key[Array, ""], temperature: float | Scalar, stochastic: bool, chunk: int
    ) -> tuple[Int[Array, "b n depth"], Float[Array, "b n depth dim"]]:
        """See `soft.draw`. Raises ValueError for books that have no soft codes."""
        x = self.codebooks[0].project(z.astype(jnp.float32))
        return soft.draw([book.table for book in self.codebooks], x, key, self.depth, temperature, stochastic, chunk)

    def distribution(
        self, residuals: Float[Array, "*grid depth dim"], temperature: float | Scalar
    ) -> Float[Array, "*grid depth codes"]:
        """See `soft.distribution`. Raises ValueError for books that have no soft codes."""
        return soft.distribution([book.table for book in self.codebooks], residuals, temperature)


def _mean_of_rows(distance: Float[Array, "depth *grid dim"]) -> Float[Array, ""]:
    """The mean square, taken within each row of the grid's first axis before over rows: a row lies on one device."""
    within = [axis for axis in range(distance.ndim) if axis != 1]
    return jnp.mean(jnp.mean(distance**2, axis=within))
