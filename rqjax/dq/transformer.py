"""DQ-Transformer: a prior over codes of several grains, position by position (Huang et al. 2023, section 3.2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from rqjax.dq import loss as dqloss
from rqjax.dq import sample as dqsampler
from rqjax.dq.network import DQTransformerNetwork
from rqjax.dq.sample import DQSamplingOptions
from rqjax.dq.sequence import SequenceLayout, sequence_layout
from rqjax.dq.vae import DQVAE, DQVAEConfig
from rqjax.errors import InputError
from rqjax.quantize.dynamic import Codes
from rqjax.rq.sample import SamplingOptions
from rqjax.rq.vae import DTYPES

POSITIVE = ("dim", "heads", "position_layers", "content_layers", "block_size", "loss_chunk", "pack_groups")


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class DQTransformerConfig:
    """A DQ-Transformer. The defaults are the release's p6c18 for dual-grain tokenizers, but for `classes`.

    With `classes` = 0 it is unconditional. The ids of pads, ends and starts follow the ordinary ones, as in every
    published model.
    """

    grids: tuple[int, ...] = (16, 32)  # the side of each grain's grid: two or three, each twice the one before
    codebook_size: int = 1024
    classes: int = 0
    order: str = "row-first"  # in which the fine codes come; or "region-first"
    dim: int = 1024
    heads: int = 8
    position_layers: int = 6
    content_layers: int = 18
    block_size: int = 2048  # rows of the learned position table, hence the longest sequence
    embedding_dropout: float = 0.1
    dropout: float = 0.1
    attention_dropout: float = 0.1
    dtype: str = "bfloat16"  # of computation; parameters are float32
    remat: bool = True
    pack: bool = False  # several images in one row, which changes no result as long as all find a place
    row_length: int = 0  # tokens in a packed row
    rows_per_image: float = 1.0  # packed rows for each image of the batch; with 1 no image is ever left out
    pack_groups: int = 1  # parts of the batch that are packed on their own: a multiple of the mesh's data axis
    loss_chunk: int = 128  # tokens of a row whose logits are held together; changes no result
    position_loss_weight: float = 1.0
    content_loss_weight: float = 1.0

    @property
    def layout(self) -> SequenceLayout:
        """The meaning of all ids. Raises InputError for grids, sizes or an order that make none."""
        try:
            return sequence_layout(tuple(self.grids), self.codebook_size, self.classes, self.order)
        except ValueError as error:
            raise InputError(str(error)) from None

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected a whole number of at least 1")
        if self.dim % self.heads:
            raise InputError(f"heads={self.heads} does not divide dim={self.dim}: choose a divisor")
        for name in ("embedding_dropout", "dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected a rate in [0, 1)")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")
        longest = self.layout.capacity
        if self.block_size < longest - 1:
            raise InputError(f"block_size is {self.block_size}: an image can take {longest - 1} tokens, raise it")
        if self.pack and self.row_length < longest:
            raise InputError(f"row_length is {self.row_length}: an image can take {longest} tokens, raise it")
        if self.pack and not 0 < self.rows_per_image <= 1:
            raise InputError(f"rows_per_image is {self.rows_per_image}: expected a number above 0, up to 1")
        if min(self.position_loss_weight, self.content_loss_weight) < 0:
            raise InputError("position_loss_weight or content_loss_weight is below 0: expected at least 0")

    def check_tokenizer(self, tokenizer: DQVAEConfig) -> None:
        """Raises InputError if the codes of this tokenizer are not those that the prior models."""
        if (found := tuple(tokenizer.grids)) != tuple(self.grids):
            raise InputError(f"the prior's grids are {tuple(self.grids)}, the tokenizer has {found}: make them equal")
        if tokenizer.codebook_size != self.codebook_size:
            raise InputError(
                f"the prior's codebook_size is {self.codebook_size} with special codes from there on, the tokenizer "
                f"has {tokenizer.codebook_size}: make them equal"
            )

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on a parameter: on the weights of linear layers only."""
        return name.endswith("/kernel")

    def init(self, key: Key[Array, ""]) -> "DQTransformer":
        """A new model: matrices and embeddings N(0, 0.02), `pos_emb` and biases 0, norms 1 and 0."""
        stack = {name: getattr(self, name) for name in ("heads", "dropout", "attention_dropout", "remat")}
        network = DQTransformerNetwork(
            content_size=self.layout.content_size,
            position_sizes=self.layout.position_sizes,
            block_size=self.block_size,
            dim=self.dim,
            embedding_dropout=self.embedding_dropout,
            position=stack | {"layers": self.position_layers},
            content=stack | {"layers": self.content_layers},
            dtype=DTYPES[self.dtype],
            rngs=nnx.Rngs(key),
        )
        names = [field.name for field in dataclasses.fields(DQTransformer) if field.name not in ("network", "layout")]
        return DQTransformer(network=network, layout=self.layout, **{name: getattr(self, name) for name in names})


def _static() -> Any:
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DQTransformer:
    """A DQ-Transformer as stages see a prior. An unconditional model ignores its labels."""

    network: Any
    layout: SequenceLayout = dataclasses.field(metadata={"static": True})
    pack: bool = _static()
    row_length: int = _static()
    rows_per_image: float = _static()
    pack_groups: int = _static()
    loss_chunk: int = _static()
    position_loss_weight: float = _static()
    content_loss_weight: float = _static()

    def conditions(self, labels: Int[Array, "b"]) -> Int[Array, "b"]:
        """What the start tokens are told: the class, or 0 for a model without."""
        return (labels if self.layout.classes else jnp.zeros_like(labels)).astype(jnp.int32)

    def logits(
        self, codes: Codes, labels: Int[Array, "b"]
    ) -> tuple[Float[Array, "b n positions"], Float[Array, "b n contents"]]:
        """Teacher-forced logits of the position and the content that follow each token, one image a row.

        What lies behind the last token of an image means nothing; `dqloss.to_tokens` says where that is.
        """
        rows = dqloss.padded(dqloss.to_tokens(codes, self.conditions(labels), self.layout))
        network = self.network
        positions, contents = network(rows.content, rows.position, rows.grain, rows.index, rows.image)
        return network.position_head(positions), network.content_head(contents)

    def loss(
        self,
        network: Any,
        tokenizer: DQVAE,
        image: Float[Array, "b height width 3"],
        labels: Int[Array, "b"],
        key: Key[Array, ""],
        train: bool,
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The loss of images for a frozen tokenizer, and metrics; dropout if `train`."""
        codes = jax.lax.stop_gradient(tokenizer.encode(image))
        return self.loss_from_codes(network, codes, labels, key if train else None)

    def loss_from_codes(
        self, network: Any, codes: Codes, labels: Int[Array, "b"], key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The loss of given codes, and metrics; dropout with a key. See `dqloss.loss_from_rows`.

        Images that found no place in a packed row are left out; the metric `unplaced` counts them.
        """
        return dqloss.loss_from_rows(self, network, dqloss.to_rows(self, codes, labels), key)

    def generate(
        self,
        tokenizer: DQVAE | None,
        labels: Int[Array | np.ndarray, "b"],
        key: Key[Array, ""],
        options: DQSamplingOptions | SamplingOptions,
        fixed_positions: bool = True,
    ) -> Codes:
        """New codes, one image for each label; see `dqsampler.generate`. The tokenizer is not needed."""
        return dqsampler.generate(self, labels, key, options, fixed_positions)
