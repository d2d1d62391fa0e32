"""The contracts of the house: everything that one room may ask of another's objects stands here and nowhere else.

A run trains a `Stage`. The stage of a `Tokenizer` is stages.autoencode, that of a `Prior` stages.predict. A tokenizer
quantizes with a `Quantizer`, a prior is led by a `Condition`. Configurations make models: `config.check()` first, then
`config.init(key)`, which is pure, so that it can be jitted and evaluated for shapes. Models are pytrees: a network,
which gradients reach, a quantizer where there is one, and their configuration, which is static.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt8

from rqjax.nets.decoding import Footprint
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.quantize.pytree import pytree
from rqjax.quantize.quantizer import Quantized, Quantizer, SoftQuantizer

__all__ = ["Batch", "Condition", "Forward", "Metrics", "Prior", "Proposal", "Quantized", "Quantizer", "Stage"]
__all__ += ["PriorConfig", "Rate", "SoftQuantizer", "StageConfig", "State", "Sums", "Tokenizer", "TokenizerConfig"]

M = TypeVar("M")
Batch = Mapping[str, Array]
"""Arrays by name, one row for each image: `image` uint8 [b h w 3], or what the tokenizer made of it before, `latent`
[b h w c] (see Tokenizer.latents); `label` int32 [b] and `text` int32 [b length] where
the data has them. Batches that fill up their last rows have `counts` bool [b] too, false where a row counts for
nothing."""
Metrics = dict[str, Float[Array, ""]]
Proposal = Callable[[Bool[Array, ""] | bool], Any]
"""The state after a step, or where it is told that the step is not good the state before it, bit for bit, with only
`step` advanced: Any, since each stage has a state of its own."""
Sums = dict[str, Float[Array, "..."]]
"""Sums over images by name: `images`, their number; scalars, each of one figure of every image; and `codes_NAME`, how
often each code of a book occurred."""
Codes = PyTree[Int[Array, "b ..."]]
"""The codes of images: [b h w depth] for residual, quantize.dynamic.Codes for dynamic quantization."""


@runtime_checkable
class Condition(Protocol):
    """The ids in front of an image's codes: none, a class, or a text. Hashable, so that it can be static."""

    @property
    def field(self) -> str | None:
        """The field of a batch that holds it; None if nothing is read."""

    @property
    def length(self) -> int:
        """Tokens in front of the codes, at least 1."""

    @property
    def size(self) -> int:
        """The number of ids, and so of embeddings."""

    @property
    def choices(self) -> int:
        """The number of single values that it has: classes, or 1 for nothing; 0 for texts, which are not listed."""

    def ids(self, values: Int[Array, "b"] | Int[Array, "b length"]) -> Int[Array, "b length"]:
        """The ids for the values of a batch (classes or texts; ignored but for their number if there is no field)."""

    def null(self, count: int) -> Int[Array, "b length"]:
        """The ids of `count` images that are conditioned on nothing, for guidance."""

    def check(self, values: Array | np.ndarray) -> None:
        """Raises InputError for values of another shape, or out of range."""


@pytree
@dataclasses.dataclass(frozen=True)
class Forward:
    """One forward pass of a tokenizer in training."""

    reconstruction: Float[Array, "b height width 3"]
    features: Float[Array, "b _ _ c"]  # the input of the tokenizer's `last_layer`
    loss: Float[Array, ""]  # the model's own, weighted
    quantizer: PyTree[Array]  # the tokenizer's, after this step
    metrics: Metrics


BY_DEPTH, BY_DETAIL, AT_FIXED_PLACES = "by depth", "by detail", "at fixed places"
"""The series of rates: of residual codes; of dynamic ones, and of the same that look at no image."""


@dataclasses.dataclass(frozen=True)
class Rate:
    """One way in which a tokenizer can code an image, with fewer codes or more."""

    series: str  # ways of one series lie on one curve
    value: float  # the number of depths, or how far from all coarse (0) to all fine (1)
    extra_bits: float  # of an image, for what its codes don't say: where the finer ones lie


@runtime_checkable
class Model(Protocol):
    """A pytree with arrays that gradients train."""

    @property
    def trained(self) -> PyTree[Array]:
        """Everything that gradients reach: the network, and parameters of the quantizer if it has any."""

    def with_trained(self: M, trained: PyTree[Array]) -> M:
        """This model with other trained parts."""


@runtime_checkable
class Tokenizer(Model, Protocol):
    """Images [b height width 3] in [-1, 1] to codes and back."""

    def with_quantizer(self: M, quantizer: Any) -> M:
        """This model with the quantizer after a step; parts of it that gradients train stay this model's."""

    @property
    def last_layer(self) -> nnx.Conv | nnx.Linear:
        """The layer that makes the reconstruction from `Forward.features`."""

    def train_forward(self, image: Float[Array, "b height width 3"], key: Key[Array, ""]) -> Forward: ...

    @property
    def levels(self) -> int:
        """Into how many parts codes fall, from coarse to fine: depths, or grains."""

    @property
    def code_sizes(self) -> Codes:
        """The number of values of every code, in the structure and the shapes of one image's codes."""

    def encode(self, image: Float[Array, "b height width 3"]) -> Codes: ...

    def latents(self, image: Float[Array, "b height width 3"], *, vectors: bool) -> Array:
        """All that a prior reads of images, as one array [b h w c] that stands for them in a batch: the `vectors`
        before quantization in bfloat16, or codes. Raises InputError where there are none."""

    def codes_of(self, batch: Batch) -> Codes:
        """The codes of a batch, by its images in [-1, 1] or by its latents."""

    def keep_first(self, codes: Codes, rows: int, levels: int) -> Codes:
        """The codes of the first `rows` rows of positions, and of their first `levels`; -1 in the place of others."""

    def vectors(self, codes: Codes) -> Float[Array, "b h w dim"]:
        """The vectors of codes, on their grid. A code of -1 is none: its vector is 0."""

    def decode_vectors(self, vectors: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        """The images of vectors, of codes or between them, not clamped."""

    def decode_codes(self, codes: Codes) -> Float[Array, "b height width 3"]:
        """The images of codes, not clamped. A code of -1 is none: its vector is 0."""

    def reconstruct(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b height width 3"]: ...

    def progressive(self, image: Float[Array, "b height width 3"]) -> Float[Array, "steps b height width 3"]:
        """The images from the first 1, 2, ... codes of every position; one step if codes have no order."""

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The ways of `at_rates`, from few codes to many."""

    def at_rates(
        self, image: Float[Array, "b height width 3"], counts: Bool[Array, "b"]
    ) -> tuple[Float[Array, "rates b height width 3"], dict[str, Float[Array, "rates codes"]]]:
        """The images after a pass through the codes of each of `rates`, and the code_hits of each."""

    def perturbed(self, codes: Codes, keys: Key[Array, "b"], share: float, among: int) -> Codes:
        """Codes of which, at a share of the positions, each is one of the `among` nearest to it in its book."""

    def code_maps(
        self, image: Float[Array, "b height width 3"], codes: Codes
    ) -> dict[str, Float[Array, "b height width 3"]]:
        """Pictures by name of how an image's codes lie over it; empty if they lie alike over all images."""

    def code_hits(self, codes: Codes, counts: Bool[Array, "b"]) -> dict[str, Float[Array, "codes"]]:
        """How often each code occurs, by depth ("1", "2" ...) or by grain, among the images that count."""

    def code_counts(self, codes: Codes) -> dict[str, Float[Array, "b"]]:
        """Figures of each image's codes by name, as their number, where images differ in it; else empty."""


@runtime_checkable
class Prior(Model, Protocol):
    """A distribution over the codes of a tokenizer."""

    @property
    def condition(self) -> Condition: ...

    def loss(self, tokenizer: Any, batch: Batch, key: Key[Array, ""], train: bool) -> tuple[Float[Array, ""], Metrics]:
        """The loss of a batch's images for a frozen tokenizer, and metrics; dropout if `train`."""

    def generate(
        self,
        tokenizer: Any,
        labels: Int[Array, "b ..."],
        key: Key[Array, ""] | Key[Array, "b"],
        draws: Draw | Sequence[Draw],
        *,
        guidance: Guidance | None = None,
        given: Codes | None = None,
    ) -> Codes:
        """New codes for each row of `labels` (values of the condition), drawn as `draws` says; see `streams`. Each row
        may have a key of its own. Codes of `given` are kept, where it is not -1."""

    @property
    def footprint(self) -> Footprint:
        """Bytes that drawing the codes of an image takes; twice as many of a row with guidance."""

    def check_given(self, codes: Codes, images: int) -> None:
        """Raises InputError unless codes are in range and the first of each of so many images, with -1 for others."""


@runtime_checkable
class TokenizerConfig(Protocol):
    """The description of a tokenizer."""

    resolution: int
    remat: bool  # activations are computed again in the backward pass

    def check(self) -> None: ...

    def init(self, key: Key[Array, ""]) -> Tokenizer: ...


@runtime_checkable
class PriorConfig(Protocol):
    """The description of a prior."""

    remat: bool  # activations are computed again in the backward pass
    condition_dropout: float  # share of the images that training sees without their condition

    @property
    def condition(self) -> Condition: ...

    @property
    def reads_vectors(self) -> bool:
        """Whether training reads a tokenizer's vectors before quantization, and not codes alone."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the parts that draw with settings of their own: the depths, or contents and positions."""

    def check(self) -> None: ...

    def following(self, tokenizer: Any) -> dict[str, Any]:
        """The fields of this configuration that a tokenizer decides, with their values. Raises InputError for one of
        another family."""

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises InputError if this prior cannot model the codes of a tokenizer of that configuration."""

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on the parameter of that name."""

    def init(self, key: Key[Array, ""]) -> Prior: ...


@runtime_checkable
class State(Protocol):
    """The parts of a stage's state that programs read; the others are the states of its optimizers."""

    @property
    def step(self) -> Int[Array, ""]:
        """Finished steps."""

    @property
    def model(self) -> Any: ...

    @property
    def ema(self) -> Any:
        """The model with averaged weights; None if it is off."""


@runtime_checkable
class Stage(Protocol):
    """One kind of training, as pure functions. What is frozen is an argument of the step, never a constant inside."""

    def init(self, key: Key[Array, ""]) -> Any:
        """A new state; pure."""

    def frozen_shapes(self) -> PyTree:
        """The shapes of everything that the step reads and never trains; None if there is nothing."""

    def propose(self, state: Any, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> tuple[Proposal, Metrics]:
        """A step with a key of its own, before it is taken, and scalars. Losses and norms of gradients are among them:
        a run takes no step with one that is not finite.
        """

    def preview(
        self, state: Any, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> dict[str, UInt8[Array, "n h w 3"]]:
        """Pictures by name, those of one name to stand in a row."""

    def evaluate(self, state: Any, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> Sums:
        """Sums over the images of a batch that count; from the averaged weights where they are kept, and pure."""


@runtime_checkable
class StageConfig(Protocol):
    """The description of a stage."""

    model: Any

    @property
    def microbatches(self) -> int:
        """Into how many parts a step splits its batch."""

    @property
    def fields(self) -> frozenset[str]:
        """The fields of a batch that the step reads."""

    def check(self) -> None: ...

    def build(self, steps: int) -> Stage:
        """The stage of a run of `steps` steps."""
