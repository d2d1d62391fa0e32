"""RQ-Transformer: a prior over the codes of an RQ-VAE, one position after the other, depth by depth (section 3.2)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key

from rqjax.checks import at_least, divides, frozen, one_of, rates
from rqjax.errors import InputError
from rqjax.interface import Batch, Metrics, Quantizer
from rqjax.nets import cross_entropy
from rqjax.nets.condition import AnyCondition, check_choice, check_dropout, check_range, labels_of
from rqjax.nets.decoding import Footprint, footprint
from rqjax.nets.guidance import Guidance, guide_of, left_out
from rqjax.nets.init import DTYPES, Rngs
from rqjax.nets.sampling import Draw, draws_of
from rqjax.quantize.pytree import pytree, static
from rqjax.rq import sample
from rqjax.rq.loss import Target, prior_loss, soft_codes
from rqjax.rq.network import NetworkConfig, RQTransformerNetwork
from rqjax.rq.vae import RQVAE, ResidualConfig

TARGETS = ("soft", "hard")
Labels = Int[Array, "b"] | Int[Array, "b length"]
"""Classes, or texts; for an unconditional model any number for each image."""


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class RQTransformerConfig(NetworkConfig):
    """An RQ-Transformer. The defaults are the 1.4B model of Lee et al. (2022) for ImageNet, but for `classes`."""

    target: str = "soft"  # the distributions of the tokenizer's soft codes; "hard": the codes
    temperature: float = 0.5  # of the soft codes
    stochastic: bool = True  # codes are drawn from the soft codes, not the nearest
    # positions whose logits are held together; changes no result. Each chunk gathers the classifier over the devices,
    # and is computed again in the backward pass, unless it is the only one
    loss_chunk: int = 32
    image_loss_weight: float = 1.0  # of the cross-entropy of an image's codes
    text_loss_weight: float = 0.0  # of the cross-entropy of a text's tokens

    @property
    def streams(self) -> tuple[str, ...]:
        """The depths, each of which may draw in its own way."""
        return tuple(f"depth {d + 1}" for d in range(self.depth))

    @property
    def reads_vectors(self) -> bool:
        """Whether training reads the vectors of images before quantization, and not their codes alone."""
        return self.target == "soft" or self.stochastic

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        names = ("code_shape", "depth", "codebook_size", "dim", "input_dim", "body_heads", "head_heads", "loss_chunk")
        at_least(1, **{name: getattr(self, name) for name in names})
        at_least(0, body_layers=self.body_layers, head_layers=self.head_layers)
        if len(self.codebook_size) not in (1, self.depth):
            raise InputError(
                f"codebook_size has {len(self.codebook_size)} sizes for depth {self.depth}: give one, or one a depth"
            )
        divides(self.dim, "dim", body_heads=self.body_heads, head_heads=self.head_heads)
        if self.rope and self.dim // self.body_heads % 4:
            size = self.dim // self.body_heads
            raise InputError(f"rope with heads of {size} features (dim / body_heads): choose a multiple of 4")
        check_choice(self.classes, self.text_vocab)
        rates(condition_dropout=self.condition_dropout)
        check_dropout(self.condition, self.condition_dropout)
        if self.text_vocab and self.text_length < 2:
            raise InputError(f"text_length is {self.text_length}: a model with a text_vocab needs at least 2")
        rates(embedding_dropout=self.embedding_dropout, dropout=self.dropout, attention_dropout=self.attention_dropout)
        if (head := self.head_block) is not None:
            rates(**{"head_block.dropout": head.dropout, "head_block.attention_dropout": head.attention_dropout})
        one_of(DTYPES, dtype=self.dtype)
        one_of(TARGETS, target=self.target)
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}: expected a number above 0")

    def following(self, tokenizer: object) -> dict[str, Any]:
        """The fields that a tokenizer decides: the shape and the sizes of its codes, and the width of their vectors.

        Raises InputError for the configuration of a tokenizer whose codes are of another kind.
        """
        if not isinstance(tokenizer, ResidualConfig):
            raise InputError(
                f"an RQTransformerConfig with a {type(tokenizer).__name__}: expected an RQVAEConfig, the tokenizer of"
                " a prior of its family"
            )
        depth, sizes = tokenizer.quantizer.depth, tokenizer.quantizer.sizes
        short = sizes[:1] if len(set(sizes)) == 1 else sizes
        books = self.codebook_size if self.sizes == sizes else short
        found = {"code_shape": tuple(tokenizer.code_shape), "depth": depth, "codebook_size": books}
        return found | ({"input_dim": tokenizer.code_dim} if self.input_emb_vqvae or self.head_emb_vqvae else {})

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises InputError if the codes of a tokenizer of this configuration are not those that the prior models."""
        follows = self.following(tokenizer)  # first: it refuses another family's
        theirs = tokenizer.quantizer
        for name, value in (follows | {"codebook_size": theirs.sizes}).items():
            mine = self.sizes if name == "codebook_size" else getattr(self, name)
            if (tuple(mine) if isinstance(value, tuple) else mine) != value:
                raise InputError(f"the prior's {name} is {mine}, the tokenizer has {value}: make them equal")
        if not theirs.soft and self.reads_vectors:
            raise InputError(
                f"target={self.target} and stochastic={self.stochastic} with a tokenizer of kind {theirs.kind}, which"
                " has no soft codes: set target=hard and stochastic=false"
            )

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on a parameter: on all of them, as in the release."""
        return True

    def init(self, key: Key[Array, ""]) -> "RQTransformer":
        """A new model: matrices and embeddings N(0, 0.02), biases 0, norms 1 and 0."""
        return RQTransformer(RQTransformerNetwork(self, Rngs(key)), frozen(self))


@pytree
@dataclasses.dataclass(frozen=True)
class RQTransformer:
    """An RQ-Transformer: a Prior over codes [b h w depth], which reads the vectors of its tokenizer's quantizer."""

    network: RQTransformerNetwork
    config: RQTransformerConfig = static()  # noqa: RUF009

    @property
    def condition(self) -> AnyCondition:
        return self.config.condition

    @property
    def trained(self) -> RQTransformerNetwork:
        return self.network

    def with_trained(self, trained: RQTransformerNetwork) -> "RQTransformer":
        return dataclasses.replace(self, network=trained)

    def loss(
        self, tokenizer: RQVAE, batch: Batch, key: Key[Array, ""], train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """The weighted loss of a batch with images in [-1, 1], or with latents, and metrics. Dropout if `train`.

        Soft targets are computed again from residuals for a few positions at a time: they are never held for a whole
        batch. The codes that the network reads are drawn from them, if the model is stochastic (section 3.2.3).
        """
        c, quantizer = self.config, tokenizer.quantizer
        labels, counts = labels_of(batch, self.condition.field), batch.get("counts")
        draw, drop = jax.random.split(key)
        drop = drop if train else None
        if not c.reads_vectors:
            return self.loss_from_codes(quantizer, tokenizer.codes_of(batch), labels, None, drop, counts)
        ready = "latent" in batch
        vectors = batch["latent"].astype(jnp.float32) if ready else tokenizer.vectors_of(batch["image"])
        codes, residuals = tokenizer.draw_codes(vectors, draw, c.temperature, c.stochastic, c.loss_chunk)
        soft = soft_codes(quantizer, residuals, c.temperature) if c.target == "soft" else None
        return self.loss_from_codes(quantizer, codes, labels, soft, drop, counts)

    def loss_from_codes(
        self,
        quantizer: Quantizer,
        codes: Int[Array, "b h w depth"],
        labels: Labels,
        target: Target | None = None,
        key: Key[Array, ""] | None = None,
        counts: Bool[Array, "b"] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """The weighted loss of given codes, against themselves or another target, and metrics; dropout, also of the
        condition, with a key.

        Means are over the images that count, all of them if that is not said.
        """
        c = self.config
        target = Target(codes, cross_entropy.hard) if target is None else target
        weights = (c.image_loss_weight, c.text_loss_weight)
        ids = self.condition.ids(labels)
        if key is not None and c.condition_dropout:
            key, drop = jax.random.split(key)
            ids = left_out(self.condition, ids, drop, c.condition_dropout)
        return prior_loss(self.network, quantizer, ids, codes, target, weights, c.loss_chunk, key, counts)

    def generate(
        self,
        tokenizer: RQVAE,
        labels: Int[Array | np.ndarray, "b"] | Int[Array | np.ndarray, "b length"],
        key: Key[Array, ""] | Key[Array, "b"],
        draws: Draw | Sequence[Draw],
        *,
        guidance: Guidance | None = None,
        given: Int[Array | np.ndarray, "b h w depth"] | None = None,
    ) -> Int[Array, "b h w depth"]:
        """New codes, one grid for each label, or the completion of `given` ones, which have -1 where codes are drawn.

        Each row draws with a key of its own, so it does not depend on how many others there are. New settings compile
        nothing; another batch size does, and turning `guidance` or `given` on. Raises InputError for settings, labels
        or codes out of range, and for guidance of a model that was trained without `condition_dropout`.
        """
        c, n, (h, w) = self.config, labels.shape[0], self.config.code_shape
        settings = draws_of(draws, c.streams)
        self.condition.check(labels)
        if given is not None:
            self.check_given(given, n)
            given = rearrange(jnp.asarray(given, jnp.int32), "b h w d -> b (h w) d")
        ids = self.condition.ids(jnp.asarray(labels))
        guide = guide_of(guidance, self.condition, c.condition_dropout, n, h * w, c.depth)
        drawn = sample.generate(self.network, tokenizer.quantizer, ids, given, key, settings, guide)
        return rearrange(drawn, "b (h w) d -> b h w d", h=h)

    @property
    def footprint(self) -> Footprint:
        network, c = self.network, self.config
        positions = c.condition.length + network.pos_emb_hw.shape[0] - 1
        return footprint([(network.body, positions), (network.head, c.depth)], max(c.sizes))

    def check_given(self, codes: Int[Array | np.ndarray, "b ..."], images: int) -> None:
        """Raises InputError unless codes are the first of each image, with -1 for all others: none follows an unknown
        one in its position, and no position has more of them than one before it.
        """
        expected = (images, *self.config.code_shape, self.config.depth)
        if codes.shape != expected:
            raise InputError(
                f"given codes have shape {codes.shape}: expected {expected}, with -1 for those to be drawn"
            )
        if isinstance(codes, jax.core.Tracer):
            return
        codes = np.asarray(codes)
        for depth, (stream, size) in enumerate(zip(self.config.streams, self.config.sizes, strict=True)):
            of_depth = codes[..., depth]
            check_range(f"given code of {stream}", of_depth[of_depth != -1], size)
        first = np.cumprod(codes >= 0, axis=-1)
        known = rearrange(first.sum(-1), "b h w -> b (h w)")
        if np.any((codes >= 0) > first) or np.any(np.diff(known) > 0):
            raise InputError(
                "given codes are no prefix: expected the first positions in raster order, or the first depths of each,"
                " and -1 behind them"
            )
