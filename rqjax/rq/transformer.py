"""RQ-Transformer: a prior over the codes of an RQ-VAE, one position after the other, depth by depth (section 3.2)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.checks import at_least, divides, frozen, one_of, rates
from rqjax.errors import InputError
from rqjax.interface import Batch, Metrics, Quantizer
from rqjax.nets.condition import ClassCondition, NoCondition, TextCondition, check_range, condition
from rqjax.nets.init import DTYPES, Rngs
from rqjax.nets.sampling import Draw, draws_of
from rqjax.nets.transformer import BlockSettings
from rqjax.quantize.pytree import pytree, static
from rqjax.rq import loss as objective
from rqjax.rq import sample
from rqjax.rq.network import RQTransformerNetwork
from rqjax.rq.vae import RQVAE, RQVAEConfig

TARGETS = ("soft", "hard")
Labels = Int[Array, "b"] | Int[Array, "b length"]
"""Classes, or texts; for an unconditional model any number for each image."""


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class RQTransformerConfig:
    """An RQ-Transformer. The defaults are the 1.4B model that Lee et al. (2022) trained on ImageNet, but for `classes`.

    It is unconditional (`classes` and `text_vocab` 0), conditional on a class, or on a text of `text_length` tokens.
    Published models have all five of the flags from `input_emb_vqvae` on set.
    """

    code_shape: tuple[int, int] = (8, 8)
    depth: int = 4
    codebook_size: tuple[int, ...] = (16384,)  # one for all depths, or one for each
    dim: int = 1536
    input_dim: int = 256  # width of a code vector of the tokenizer
    body_layers: int = 42
    head_layers: int = 6
    body_heads: int = 0  # 0: as many as make heads of 64 features, as published
    head_heads: int = 0  # the same
    classes: int = 0
    text_vocab: int = 0
    text_length: int = 0
    input_emb_vqvae: bool = True  # the body reads the tokenizer's code vectors, not embeddings of its own
    head_emb_vqvae: bool = True  # so does the head
    cumsum_depth_ctx: bool = True  # the head reads the sum of the codes so far, not the last alone
    shared_tok_emb: bool = True
    shared_cls_emb: bool = True  # one classifier for all depths
    embedding_dropout: float = 0.0
    dropout: float = 0.1
    attention_dropout: float = 0.0
    sigmoid_gelu: bool = False  # x sigmoid(1.702 x) for the exact GELU: "v2" of the official release
    qk_norm: bool = False  # normalised queries and keys; no official form
    rope: bool = False  # two-dimensional rotary positions in the body, beside the learned ones; no official form
    dtype: str = "bfloat16"  # of computation (the release: float16); parameters are float32
    remat: bool = True
    target: str = "soft"  # the distributions of the tokenizer's soft codes; "hard": the codes
    temperature: float = 0.5  # of the soft codes
    stochastic: bool = True  # codes are drawn from the soft codes, not the nearest
    # positions whose logits are held together; changes no result. Each chunk gathers the classifier over the devices
    loss_chunk: int = 32
    image_loss_weight: float = 1.0
    text_loss_weight: float = 0.0

    def __post_init__(self) -> None:
        self.body_heads = self.body_heads or max(self.dim // 64, 1)
        self.head_heads = self.head_heads or max(self.dim // 64, 1)

    @property
    def condition(self) -> NoCondition | ClassCondition | TextCondition:
        """The tokens in front of the codes."""
        return condition(self.classes, self.text_vocab, self.text_length)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The codebook size of each depth."""
        return tuple(self.codebook_size) * (self.depth if len(self.codebook_size) == 1 else 1)

    @property
    def streams(self) -> tuple[str, ...]:
        """The depths, each of which may draw in its own way."""
        return tuple(f"depth {d + 1}" for d in range(self.depth))

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        names = ("code_shape", "depth", "codebook_size", "dim", "input_dim", "body_layers", "head_layers", "loss_chunk")
        at_least(1, **{name: getattr(self, name) for name in (*names, "body_heads", "head_heads")})
        if len(self.codebook_size) not in (1, self.depth):
            raise InputError(
                f"codebook_size has {len(self.codebook_size)} sizes for depth {self.depth}: give one, or one a depth"
            )
        divides(self.dim, "dim", body_heads=self.body_heads, head_heads=self.head_heads)
        if self.rope and self.dim // self.body_heads % 4:
            size = self.dim // self.body_heads
            raise InputError(f"rope with heads of {size} features (dim / body_heads): choose a multiple of 4")
        if min(self.classes, self.text_vocab) < 0 or (self.classes and self.text_vocab):
            raise InputError(f"classes={self.classes} and text_vocab={self.text_vocab}: at most one may be above 0")
        if self.text_vocab and self.text_length < 2:
            raise InputError(f"text_length is {self.text_length}: a model with a text_vocab needs at least 2")
        rates(embedding_dropout=self.embedding_dropout, dropout=self.dropout, attention_dropout=self.attention_dropout)
        one_of(DTYPES, dtype=self.dtype)
        one_of(TARGETS, target=self.target)
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}: expected a number above 0")

    def check_tokenizer(self, tokenizer: object) -> None:
        """Raises InputError if the codes of a tokenizer of this configuration are not those that the prior models."""
        if not isinstance(tokenizer, RQVAEConfig):
            raise InputError(
                f"an RQTransformerConfig with a {type(tokenizer).__name__}: expected an RQVAEConfig, the tokenizer of"
                " a prior of its family"
            )
        theirs = tokenizer.quantizer
        found = {"code_shape": tuple(tokenizer.code_shape), "depth": theirs.depth, "codebook_size": theirs.sizes}
        wanted = {"code_shape": tuple(self.code_shape), "depth": self.depth, "codebook_size": self.sizes}
        if self.input_emb_vqvae or self.head_emb_vqvae:
            found["input_dim"], wanted["input_dim"] = tokenizer.code_dim, self.input_dim
        for name, value in wanted.items():
            if found[name] != value:
                raise InputError(f"the prior's {name} is {value}, the tokenizer has {found[name]}: make them equal")
        if not theirs.soft and (self.target == "soft" or self.stochastic):
            raise InputError(
                f"target={self.target} and stochastic={self.stochastic} with a tokenizer of kind {theirs.kind}, which"
                " has no soft codes: set target=hard and stochastic=false"
            )

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on a parameter: on all of them, as in the release."""
        return True

    def init(self, key: Key[Array, ""]) -> "RQTransformer":
        """A new model: matrices and embeddings N(0, 0.02), biases 0, norms 1 and 0."""
        block = BlockSettings(
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            sigmoid_gelu=self.sigmoid_gelu,
            qk_norm=self.qk_norm,
            rope=(self.condition.length, *self.code_shape) if self.rope else None,
            dtype=DTYPES[self.dtype],
        )
        network = RQTransformerNetwork(
            positions=self.code_shape[0] * self.code_shape[1],
            sizes=self.sizes,
            dim=self.dim,
            input_dim=self.input_dim,
            conditions=self.condition.size,
            condition_length=self.condition.length,
            layers=(self.body_layers, self.head_layers),
            heads=(self.body_heads, self.head_heads),
            input_emb_vqvae=self.input_emb_vqvae,
            head_emb_vqvae=self.head_emb_vqvae,
            cumsum_depth_ctx=self.cumsum_depth_ctx,
            shared_tok_emb=self.shared_tok_emb,
            shared_cls_emb=self.shared_cls_emb,
            embedding_dropout=self.embedding_dropout,
            block=block,
            remat=self.remat,
            rngs=Rngs(key),
        )
        return RQTransformer(network, frozen(self))


@pytree
@dataclasses.dataclass(frozen=True)
class RQTransformer:
    """An RQ-Transformer: a Prior over codes [b h w depth], which reads the vectors of its tokenizer's quantizer."""

    network: RQTransformerNetwork
    config: RQTransformerConfig = static()  # noqa: RUF009

    @property
    def condition(self) -> NoCondition | ClassCondition | TextCondition:
        return self.config.condition

    @property
    def trained(self) -> RQTransformerNetwork:
        return self.network

    def with_trained(self, trained: RQTransformerNetwork) -> "RQTransformer":
        return dataclasses.replace(self, network=trained)

    def logits(
        self, quantizer: Quantizer, codes: Int[Array, "b h w depth"], labels: Labels
    ) -> tuple[Float[Array, "b h w depth codes"], Float[Array, "b texts text_vocab"]]:
        """Teacher-forced logits of every code, and of the text tokens from the second on (none without a text)."""
        flat = rearrange(codes, "b h w d -> b (h w) d")
        text, outputs = self.network(self.condition.ids(labels), flat, quantizer, None)
        logits = rearrange(self.network.classifier(outputs), "b (h w) d k -> b h w d k", h=codes.shape[1])
        if not self.config.text_vocab:
            return logits, jnp.zeros((codes.shape[0], 0, 0))
        return logits, self.network.cond_classifier(text[:, :, None])[:, :, 0]

    def loss(
        self, tokenizer: RQVAE, batch: Batch, key: Key[Array, ""], train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """The weighted loss of a batch with images in [-1, 1], and metrics. Dropout if `train`.

        Soft targets are computed again from residuals for a few positions at a time: they are never held for a whole
        batch. The codes that the network reads are drawn from them, if the model is stochastic (section 3.2.3).
        """
        c, image, quantizer = self.config, batch["image"], tokenizer.quantizer
        labels = batch[self.condition.field] if self.condition.field else jnp.zeros(image.shape[0], jnp.int32)
        draw, drop = jax.random.split(key)
        drop = drop if train else None
        if c.target == "hard" and not c.stochastic:
            return self.loss_from_codes(quantizer, tokenizer.encode(image), labels, key=drop)
        codes, residuals = tokenizer.sample_codes(image, draw, c.temperature, c.stochastic, c.loss_chunk)
        if c.target == "hard":
            return self.loss_from_codes(quantizer, codes, labels, key=drop)
        return self._loss(quantizer, codes, labels, objective.soft_codes(quantizer, residuals, c.temperature), drop)

    def loss_from_codes(
        self,
        quantizer: Quantizer,
        codes: Int[Array, "b h w depth"],
        labels: Labels,
        soft: Float[Array, "b h w depth codes"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """The weighted loss of given codes, against themselves or the distributions `soft`, and metrics.

        Dropout with a key.
        """
        target = objective.codes(codes) if soft is None else objective.distributions(soft)
        return self._loss(quantizer, codes, labels, target, key)

    def _loss(
        self, quantizer: Quantizer, codes: Array, labels: Array, target: objective.Target, key: Array | None
    ) -> tuple[Array, Metrics]:
        c = self.config
        weights = (c.image_loss_weight, c.text_loss_weight)
        ids = self.condition.ids(labels)
        return objective.loss(self.network, quantizer, ids, codes, target, weights, c.loss_chunk, key)

    def generate(
        self,
        tokenizer: RQVAE,
        labels: Int[Array | np.ndarray, "b"] | Int[Array | np.ndarray, "b length"],
        key: Key[Array, ""],
        draws: Draw | Sequence[Draw],
        codes: Int[Array | np.ndarray, "b h w depth"] | None = None,
        start: tuple[int, int] = (0, 0),
    ) -> Int[Array, "b h w depth"]:
        """New codes, one grid for each label, or the completion of `codes` from the position `start` (row, column) on.

        Each row draws with a key of its own, so it does not depend on how many others there are. New settings compile
        nothing; another batch size or start does. Raises InputError for settings, labels, codes or a start out of
        range.
        """
        settings = draws_of(draws, self.config.streams)
        h, w = self.config.code_shape
        given = start[0] * w + start[1]
        if not (0 <= start[0] < h and 0 <= start[1] < w):
            raise InputError(f"start is {tuple(start)}: expected a position of the {h}x{w} grid")
        if codes is None and given:
            raise InputError(
                f"start is {tuple(start)} but no codes are given: pass those before it, or start at (0, 0)"
            )
        self.condition.check(labels)
        if codes is None:
            codes = np.zeros((labels.shape[0], h, w, self.config.depth), np.int32)
        self._check_codes(codes, labels.shape[0])
        ids = self.condition.ids(jnp.asarray(labels))
        prefix = rearrange(jnp.asarray(codes, jnp.int32), "b h w d -> b (h w) d")[:, :given]
        drawn = sample.generate(self.network, tokenizer.quantizer, ids, prefix, key, settings)
        return rearrange(drawn, "b (h w) d -> b h w d", h=h)

    def _check_codes(self, codes: Array | np.ndarray, batch: int) -> None:
        expected = (batch, *self.config.code_shape, self.config.depth)
        if codes.shape != expected:
            raise InputError(f"codes have shape {codes.shape}: expected {expected}, one grid for each label")
        for depth, (stream, size) in enumerate(zip(self.config.streams, self.config.sizes, strict=True)):
            check_range(f"code of {stream}", codes[..., depth], size)
