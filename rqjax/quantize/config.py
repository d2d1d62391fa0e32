"""The description of a quantizer of vectors: its kind, its sizes, and how it learns."""

import dataclasses
import math

KINDS = ("codebook", "simvq", "fsq")
STARTS = ("normal", "kmeans")
GRADIENTS = ("straight_through", "rotation")


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class QuantizerConfig:
    """A residual quantizer: `depth` codes for each vector, each from the codebook of its depth.

    The defaults are those of RQ-VAE (Lee et al. 2022). Kinds: "codebook" holds vectors that follow moving averages;
    "simvq" a frozen random codebook times a learned matrix; "fsq" rounds each dimension to one of its `levels`.
    `codebook_size` and `decay` have one value for all depths, or one for each.
    """

    kind: str = "codebook"
    codebook_size: tuple[int, ...] = (16384,)  # codes of each depth; "fsq": the product of its levels
    depth: int = 4
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
    dropout: float = 0.0  # in training, the share of rows that keep their first codes only
    dropout_from: int = 1  # such a row keeps this many codes or more, drawn uniformly

    @property
    def sizes(self) -> tuple[int, ...]:
        """The codebook size of each depth."""
        sizes = (math.prod(self.levels),) if self.kind == "fsq" else tuple(self.codebook_size)
        return sizes * self.depth if len(sizes) == 1 else sizes
