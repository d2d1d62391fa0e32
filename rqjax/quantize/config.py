"""The description of a quantizer of vectors: its kind, its sizes, and how it learns."""

import dataclasses
import math

import jax
from jaxtyping import Array, Key

from rqjax.quantize.codebook import init_codebook
from rqjax.quantize.fsq import FSQ
from rqjax.quantize.residual import Book, ResidualQuantizer
from rqjax.quantize.simvq import init_simvq

OPTIONS = {
    "codebook": ("commitment_weight", "decay", "restart_threshold", "update_once_per_step"),
    "simvq": ("commitment_weight",),
    "fsq": ("levels",),
}
"""Kinds of quantizers, and the fields that only some of them read."""


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class QuantizerConfig:
    """A residual quantizer: `depth` codes for each vector, each from the codebook of its depth.

    The defaults are those of RQ-VAE (Lee et al. 2022). Kinds: "codebook" holds vectors that follow moving averages;
    "simvq" a frozen random codebook times a learned matrix; "fsq" rounds each dimension to one of its `levels`.
    `codebook_size` and `decay` have one value for all depths, or one for each.
    """

    kind: str = "codebook"
    codebook_size: tuple[int, ...] = (16384,)  # codes of each depth; "fsq" has the product of its levels instead
    depth: int = 4
    commitment_weight: float = 0.25  # of the mean squared distance between vectors and their quantized form
    decay: tuple[float, ...] = (0.99,)  # "codebook": of the moving averages
    restart_threshold: float = 1.0  # "codebook": a count of vectors, under which a code restarts; 0: never
    update_once_per_step: bool = False  # "codebook": one update after the last depth, not one after each
    restart_warning: float = 0.5  # share of restarted codes above which the metric `restart_warning` is 1
    levels: tuple[int, ...] = ()  # "fsq": of each dimension of a vector

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
        if self.kind not in OPTIONS:
            raise ValueError(f"kind is {self.kind!r}: expected one of {', '.join(OPTIONS)}")
        self._check_options()
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}: at least one code for each vector is needed")
        if dim < 1:
            raise ValueError(f"vectors of {dim} dimensions have no codes: give at least 1")
        if self.kind == "fsq":
            self._check_levels(dim)
        else:
            self._check_sizes()
        if self.restart_threshold < 0:
            raise ValueError(f"restart_threshold is {self.restart_threshold}: expected 0 (off) or a count of vectors")
        if self.commitment_weight < 0:
            raise ValueError(f"commitment_weight is {self.commitment_weight}: expected a number of at least 0")
        if not 0 <= self.restart_warning <= 1:
            raise ValueError(f"restart_warning is {self.restart_warning}: expected a share in [0, 1]")

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
        )

    def _books(self, key: Key[Array, ""], dim: int) -> tuple[Book, ...]:
        if self.kind == "fsq":
            return tuple(FSQ(tuple(self.levels), index) for index in range(self.depth))
        sizes, weight = tuple(self.codebook_size), float(self.commitment_weight)
        keys = jax.random.split(key, len(sizes))
        if self.kind == "simvq":
            return tuple(
                init_simvq(key, size, dim, commitment_weight=weight) for key, size in zip(keys, sizes, strict=True)
            )
        decays = tuple(self.decay) * (len(sizes) if len(self.decay) == 1 else 1)
        threshold = float(self.restart_threshold)
        return tuple(
            init_codebook(key, size, dim, decay=float(decay), restart_threshold=threshold, commitment_weight=weight)
            for key, size, decay in zip(keys, sizes, decays, strict=True)
        )
