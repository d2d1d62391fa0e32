"""DQ-Transformer: a prior over codes of several grains, position by position (Huang et al. 2023, section 3.2)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from rqjax.checks import at_least, divides, frozen, one_of, rates
from rqjax.dq import sample
from rqjax.dq.given import check_prefix
from rqjax.dq.loss import weighted
from rqjax.dq.network import DQTransformerNetwork, NetworkConfig
from rqjax.dq.packing import packed
from rqjax.dq.sequence import Rows, to_rows
from rqjax.dq.trim import trimmed
from rqjax.dq.vae import DQVAE, GrainConfig
from rqjax.errors import InputError
from rqjax.interface import Batch, Metrics
from rqjax.nets.condition import AnyCondition, TextCondition, check_choice, check_dropout, labels_of
from rqjax.nets.decoding import Footprint, footprint
from rqjax.nets.guidance import Guidance, guide_of, left_out
from rqjax.nets.init import DTYPES, Rngs
from rqjax.nets.sampling import Draw, draws_of
from rqjax.quantize.dynamic import Codes
from rqjax.quantize.pytree import pytree

Labels = Int[Array, "b"] | Int[Array, "b length"]
"""Classes, or texts; for an unconditional model any number for each image."""


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class DQTransformerConfig(NetworkConfig):
    """A DQ-Transformer. The defaults are the release's p6c18 for dual-grain tokenizers, but for `classes`."""

    pack: bool = False  # several images in one row, which changes no result as long as all find a place
    row_length: int = 0  # tokens in a packed row
    # lengths to which rows are cut if the longest of the batch fits, besides the whole; each is compiled; not if packed
    row_lengths: tuple[int, ...] = ()
    rows_per_image: float = 1.0  # packed rows for each image of the batch; with 1 no image is ever left out
    pack_groups: int = 1  # parts of the batch, each packed alone: a multiple of the data axis; 0: one for each shard
    loss_chunk: int = 128  # tokens of a row whose logits are held together; changes no result
    position_loss_weight: float = 1.0  # of the cross-entropy of positions
    content_loss_weight: float = 1.0  # of the cross-entropy of codes
    streams = sample.STREAMS
    reads_vectors = False

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        names = ("dim", "heads", "position_layers", "content_layers", "block_size", "loss_chunk")
        at_least(1, **{name: getattr(self, name) for name in names})
        at_least(0, classes=self.classes, pack_groups=self.pack_groups)
        check_choice(self.classes, self.text_vocab)
        if self.text_vocab:
            at_least(1, **{name: getattr(self, name) for name in ("text_length", "text_dim", "text_heads")})
            at_least(0, text_layers=self.text_layers)
            divides(self.text_dim, "text_dim", text_heads=self.text_heads)
        rates(condition_dropout=self.condition_dropout)
        check_dropout(self.condition, self.condition_dropout)
        divides(self.dim, "dim", heads=self.heads)
        rates(embedding_dropout=self.embedding_dropout, dropout=self.dropout, attention_dropout=self.attention_dropout)
        one_of(DTYPES, dtype=self.dtype)
        self.layout.check()
        longest = self.layout.capacity
        if self.block_size < longest - 1:
            raise InputError(f"block_size is {self.block_size}: an image can take {longest - 1} tokens, raise it")
        if self.pack and self.row_length < longest:
            raise InputError(f"row_length is {self.row_length}: an image can take {longest} tokens, raise it")
        at_least(2, **({"row_lengths": self.row_lengths} if self.row_lengths else {}))
        if self.pack and self.row_lengths:
            raise InputError(
                f"row_lengths are {self.row_lengths} of packed rows, which have one length: leave them out"
            )
        if self.pack and not 0 < self.rows_per_image <= 1:
            raise InputError(f"rows_per_image is {self.rows_per_image}: expected a number above 0, up to 1")
        at_least(0, position_loss_weight=self.position_loss_weight, content_loss_weight=self.content_loss_weight)

    def following(self, tokenizer: object) -> dict[str, Any]:
        """The fields that a tokenizer decides: its grids, its codes, and room for the longest sequence of them.

        Raises InputError for the configuration of a tokenizer whose codes are of another kind.
        """
        if not isinstance(tokenizer, GrainConfig):
            raise InputError(
                f"a DQTransformerConfig with an {type(tokenizer).__name__}: expected a DQVAEConfig, the tokenizer of"
                " a prior of its family"
            )
        codes = {"grids": tuple(tokenizer.grids), "codebook_size": tokenizer.codebook_size}
        longest = dataclasses.replace(self, **codes).layout.capacity
        rooms = {"block_size": max(self.block_size, longest - 1)}
        return codes | rooms | ({"row_length": max(self.row_length, longest)} if self.pack else {})

    def check_tokenizer(self, tokenizer: object) -> None:
        """Raises InputError if the codes of a tokenizer of this configuration are not those that the prior models."""
        follows = self.following(tokenizer)
        if (found := follows["grids"]) != tuple(self.grids):
            raise InputError(f"the prior's grids are {tuple(self.grids)}, the tokenizer has {found}: make them equal")
        if (size := follows["codebook_size"]) != self.codebook_size:
            raise InputError(
                f"the prior's codebook_size is {self.codebook_size} with special codes from there on, the tokenizer "
                f"has {size}: make them equal"
            )

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on a parameter: on the weights of linear layers only."""
        return name.endswith("/kernel")

    def init(self, key: Key[Array, ""]) -> "DQTransformer":
        """A new model: matrices and embeddings N(0, 0.02), `pos_emb` and biases 0, norms 1 and 0."""
        return DQTransformer(DQTransformerNetwork(self, Rngs(key)), frozen(self))


@pytree
@dataclasses.dataclass(frozen=True)
class DQTransformer:
    """A DQ-Transformer: a Prior over codes of two or three grains. An unconditional model ignores its labels."""

    network: DQTransformerNetwork
    config: DQTransformerConfig = dataclasses.field(metadata={"static": True})

    @property
    def trained(self) -> DQTransformerNetwork:
        return self.network

    def with_trained(self, trained: DQTransformerNetwork) -> "DQTransformer":
        return dataclasses.replace(self, network=trained)

    @property
    def condition(self) -> AnyCondition:
        return self.config.condition

    def rows(self, codes: Codes, labels: Labels, drop: Key[Array, ""] | None = None) -> Rows:
        """The sequences of images, one a row, each led by its class or text; with a key some are led by none, as
        trained.
        """
        ids, rate = self.condition.ids(labels), self.config.condition_dropout
        ids = left_out(self.condition, ids, drop, rate) if drop is not None and rate else ids
        starts, texts = self._led_by(ids)
        return to_rows(codes, starts, self.config.layout, texts)

    def _led_by(self, ids: Int[Array, "b length"]) -> tuple[Int[Array, "b"], Int[Array, "b length"] | None]:
        """The start tokens of images by the ids of their condition, and their texts, if these are what leads them."""
        return (jnp.zeros_like(ids[:, 0]), ids) if isinstance(self.condition, TextCondition) else (ids[:, 0], None)

    def loss(
        self, tokenizer: DQVAE, batch: Batch, key: Key[Array, ""], train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss of a batch, with images in [-1, 1] or latents, for a frozen tokenizer, and metrics; dropout if
        `train`.
        """
        codes = jax.lax.stop_gradient(tokenizer.codes_of(batch))
        labels, counts = labels_of(batch, self.condition.field), batch.get("counts")
        return self.loss_from_codes(codes, labels, key if train else None, counts)

    def loss_from_codes(
        self,
        codes: Codes,
        labels: Labels,
        key: Key[Array, ""] | None = None,
        counts: Bool[Array, "b"] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """The weighted sum of the content loss and the position loss, and metrics; dropout, also of the condition, with
        a key.

        The content loss is the mean cross-entropy of all contents, the position loss the mean over grains of that of
        the grain's positions. Images that found no place in a packed row are left out; `unplaced` counts them. Those
        that don't count, if `counts` says so, are rows of padding.
        """
        c = self.config
        drop = None
        if key is not None and c.condition_dropout:
            key, drop = jax.random.split(key)
        rows, unplaced = self.rows(codes, labels, drop), jnp.zeros((), jnp.int32)
        if counts is not None:
            rows = dataclasses.replace(rows, image=jnp.where(counts[:, None], rows.image, -1))
        if c.pack:
            rows, unplaced = packed(
                rows, c.layout, groups=c.pack_groups, row_length=c.row_length, rows_per_image=c.rows_per_image
            )
        weights = (c.content_loss_weight, c.position_loss_weight)
        score = functools.partial(weighted, grains=c.layout.grains, chunk=c.loss_chunk, weights=weights)
        loss, metrics = trimmed(score, tuple(c.row_lengths), self.network, rows, key)
        return loss, metrics | {"unplaced": unplaced.astype(jnp.float32)}

    def generate(
        self,
        tokenizer: DQVAE | None,
        labels: Int[Array | np.ndarray, "b"] | Int[Array | np.ndarray, "b length"],
        key: Key[Array, ""] | Key[Array, "b"],
        draws: Draw | Sequence[Draw],
        fixed_positions: bool = True,
        *,
        guidance: Guidance | None = None,
        given: Codes | None = None,
    ) -> Codes:
        """New codes, one image for each label or text; the tokenizer is not needed. See `sample.generate`.

        `given` are codes to complete: regions with grain -1 are drawn, and so are codes of -1 in those with a grain.
        Raises InputError for settings, labels or codes out of range, and for guidance of a model that was trained
        without `condition_dropout`. Guidance grows with the tokens of an image, up to the longest that there can be.
        """
        return self.generate_rows(labels, key, draws, fixed_positions, guidance=guidance, given=given)[1]

    def generate_rows(
        self,
        labels: Int[Array | np.ndarray, "b"] | Int[Array | np.ndarray, "b length"],
        key: Key[Array, ""] | Key[Array, "b"],
        draws: Draw | Sequence[Draw],
        fixed_positions: bool = True,
        limit: int | None = None,
        guidance: Guidance | None = None,
        given: Codes | None = None,
    ) -> tuple[Rows, Codes]:
        """The sequences in the order in which they were drawn, and their codes; see `sample.generate`."""
        labels, layout, n = jnp.asarray(labels), self.config.layout, labels.shape[0]
        self.condition.check(labels)
        settings = draws_of(draws, self.config.streams)
        limit = layout.capacity if limit is None else limit
        c = self.config
        if given is not None:
            self.check_given(given, n)
            given = jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), given)
        guide = guide_of(guidance, self.condition, c.condition_dropout, n, layout.capacity - 1, len(c.streams))
        starts, texts = self._led_by(self.condition.ids(labels))
        return sample.generate(self.network, layout, starts, key, settings, fixed_positions, limit, guide, given, texts)

    @property
    def footprint(self) -> Footprint:
        network, layout = self.network, self.config.layout
        read = self.condition.length if isinstance(self.condition, TextCondition) else 0
        stacks = [(stack, layout.capacity - 1 + read) for stack in (network.position_stack, network.content_stack)]
        return footprint(stacks, max(layout.content_size, *layout.position_sizes))

    def check_given(self, codes: Codes, images: int) -> None:
        """Raises InputError unless codes are the first of each image, with -1 for all others: those of its first
        regions in raster order, and in these of all grains or of the coarser ones.
        """
        check_prefix(codes, images, self.config.layout)
