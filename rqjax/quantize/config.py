"""The description of a quantizer of vectors: its kind, its sizes, and how it learns."""

import dataclasses
import math

import jax
from jaxtyping import Array, Key

from rqjax.quantize.codebook import init_codebook
from rqjax.quantize.fsq import FSQ
from rqjax.quantize.residual import Book, ResidualQuantizer
from rqjax.quantize.simvq import init_simvq

SEARCHED = ("commitment_weight", "gradient", "temperature")
OPTIONS = {
    "codebook": (*SEARCHED, "decay", "restart_threshold", "update_once_per_step", "start", "normalize"),
    "simvq": SEARCHED,
    "fsq": ("levels",),
}
"""Kinds of quantizers, and the fields that only some of them read."""
STARTS = ("normal", "kmeans")
GRADIENTS = ("straight_through", "rotation")


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class QuantizerConfig:
    """A residual quantizer: `depth` codes for each vector, each from the codebook of its depth.

    The defaults are those of RQ-VAE (Lee et al. 2022). Kinds: "codebook" holds vectors that follow moving averages;
    "simvq" a frozen random codebook times a learned matrix; "fsq" rounds each dimension to one of its `levels`.
    `codebook_size` and `decay` have one value for all depths, or one for each.
    """

    kind: str = "codebook"  # codebook (moving averages), simvq or fsq
    codebook_size: tuple[int, ...] = (16384,)  # codes of each depth; "fsq" has the product of its levels instead
    depth: int = 4  # codes to a vector, each of what the ones before left over
    commitment_weight: float = 0.25  # of the mean squared distance between vectors and their quantized form
    decay: tuple[float, ...] = (0.99,)  # "codebook": of the moving averages
    restart_threshold: float = 1.0  # "codebook": a count of vectors, under which a code restarts; 0: never
    update_once_per_step: bool = False  # "codebook": one update after the last depth, not one after each
    restart_warning: float = 0.5  # share of restarted codes above which the metric `restart_warning` is 1
    levels: tuple[int, ...] = ()  # "fsq": of each dimension of a vector
    start: str = "normal"  # "codebook": N(0, 1), or "kmeans" of the first batch
    normalize: bool = False  # "codebook": vectors and codes have length 1, as in LlamaGen; for depth 1
    gradient: str = "straight_through"  # or "rotation": the rotation trick
    temperature: float = 0.0  # in training, codes are drawn from softmax(-distance / temperature); 0: the nearest
    dropout: float = 0.0  # in training, the share of rows (images) that keep their first codes only
    dropout_from: int = 1  # such a row keeps this many codes or more, drawn uniformly

    @property
    def sizes(self) -> tuple[int, ...]:
        """The codebook size of each depth."""
        sizes = (math.prod(self.levels),) if self.kind == "fsq" else tuple(self.codebook_size)
        return sizes * self.depth if len(sizes) == 1 else sizes

    @property
    def soft(self) -> bool:
        """Whether the quantizer has distributions over its codes: whether it is a SoftQuantizer."""
        return self.kind != "fsq"

    def check(self, dim: int) -> None:
        """Raises ValueError, in one line, for values that make no quantizer of vectors of `dim` dimensions."""
        for name, known in (("kind", OPTIONS), ("start", STARTS), ("gradient", GRADIENTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(known)}")
        self._check_options()
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}: at least one code for each vector is needed")
        if dim < 1:
            raise ValueError(f"vectors of {dim} dimensions have no codes: give at least 1")
        if self.kind == "fsq":
            self._check_levels(dim)
        else:
            self._check_sizes()
        self._check_numbers()
        if self.normalize and self.depth > 1:
            raise ValueError(
                f"normalize is for depth 1, not {self.depth}: residuals of vectors of length 1 have other lengths"
            )
        if self.temperature and self.gradient == "rotation":
            raise ValueError("gradient 'rotation' diverges with drawn codes: set temperature=0, or 'straight_through'")
        if self.dropout and not 1 <= self.dropout_from < self.depth:
            raise ValueError(
                f"dropout_from is {self.dropout_from}, depth {self.depth}: dropout needs 1 <= dropout_from < depth"
            )

    def _check_numbers(self) -> None:
        if self.restart_threshold < 0:
            raise ValueError(f"restart_threshold is {self.restart_threshold}: expected 0 (off) or a count of vectors")
        for name in ("commitment_weight", "temperature"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: expected a number of at least 0")
        for name in ("restart_warning", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected a share in [0, 1]")

    def _check_options(self) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for kind, names in OPTIONS.items():
            for name in set(names) - set(OPTIONS[self.kind]):
                if getattr(self, name) != defaults[name]:
                    raise ValueError(
                        f"{name} belongs to kind {kind!r}, not {self.kind!r}: leave it at {defaults[name]}"
                    )

    def _check_levels(self, dim: int) -> None:
        levels = self.levels
        if len(levels) != dim:
            raise ValueError(
                f"fsq rounds each of a vector's {dim} dimensions, levels is {levels}: give {dim} levels"
                + (f", or set embed_dim={len(levels)}" if levels else "")
            )
        if min(levels) < 3:
            raise ValueError(f"levels is {levels}: expected whole numbers of at least 3")
        if math.prod(levels) >= 2**31:
            raise ValueError(f"levels {levels} make {math.prod(levels)} codes: give fewer than 2**31, an int32")

    def _check_sizes(self) -> None:
        sizes, many = self.codebook_size, len(self.codebook_size)
        if min(sizes, default=0) < 1:
            raise ValueError(f"codebook_size is {sizes}: expected whole numbers of at least 1")
        if many not in (1, self.depth):
            raise ValueError(f"codebook_size has {many} sizes for depth {self.depth}: give one, or one for each depth")
        if len(self.decay) not in (1, many):
            raise ValueError(f"{len(self.decay)} decays for {many} codebooks: give one, or one for each")
        if not all(0 <= decay < 1 for decay in self.decay):
            raise ValueError(f"decay is {self.decay}: expected values in [0, 1)")

    def init(self, key: Key[Array, ""], dim: int) -> ResidualQuantizer:
        """A new quantizer of vectors of `dim` dimensions; pure."""
        return ResidualQuantizer(
            codebooks=self._books(key, dim),
            depth=self.depth,
            commitment_weight=0.0 if self.kind == "fsq" else float(self.commitment_weight),
            update_once_per_step=self.update_once_per_step,
            restart_warning=float(self.restart_warning),
            gradient=self.gradient,
            temperature=float(self.temperature),
            dropout=float(self.dropout),
            dropout_from=self.dropout_from,
        )

    def _books(self, key: Key[Array, ""], dim: int) -> tuple[Book, ...]:
        if self.kind == "fsq":
            return tuple(FSQ(tuple(self.levels), index) for index in range(self.depth))
        weight, books = float(self.commitment_weight), len(self.codebook_size)
        drawn = zip(jax.random.split(key, books), self.codebook_size, strict=True)
        if self.kind == "simvq":
            return tuple(init_simvq(key, size, dim, commitment_weight=weight) for key, size in drawn)
        decays = tuple(self.decay) * (books if len(self.decay) == 1 else 1)
        settings = {
            "restart_threshold": float(self.restart_threshold),
            "commitment_weight": weight,
            "normalize": self.normalize,
            "start": self.start,
        }
        return tuple(
            init_codebook(key, size, dim, decay=float(decay), **settings)
            for (key, size), decay in zip(drawn, decays, strict=True)
        )
