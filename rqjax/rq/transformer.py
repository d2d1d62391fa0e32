"""RQ-Transformer: a prior over the codes of an RQ-VAE, one position after the other, depth by depth (section 3.2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from rqjax.checks import divides
from rqjax.errors import InputError
from rqjax.quantize.residual import Codebooks, embed_codes_with_depth
from rqjax.rq import loss as rqloss
from rqjax.rq import sample as rqsampler
from rqjax.rq.network import RQTransformerNetwork
from rqjax.rq.sample import SamplingOptions
from rqjax.rq.vae import DTYPES, RQVAE, RQVAEConfig

POSITIVE = (
    "code_shape",
    "depth",
    "codebook_size",
    "dim",
    "input_dim",
    "body_layers",
    "head_layers",
    "body_heads",
    "head_heads",
)


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
    def sizes(self) -> tuple[int, ...]:
        """The codebook size of each depth."""
        return tuple(self.codebook_size) * (self.depth if len(self.codebook_size) == 1 else 1)

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        for name in (*POSITIVE, "loss_chunk"):
            values = getattr(self, name)
            if min(values if isinstance(values, tuple) else (values,), default=0) < 1:
                raise InputError(f"{name} is {values}: expected whole numbers of at least 1")
        if len(self.codebook_size) not in (1, self.depth):
            raise InputError(
                f"codebook_size has {len(self.codebook_size)} sizes for depth {self.depth}: give one, or one a depth"
            )
        divides(self.dim, "dim", body_heads=self.body_heads, head_heads=self.head_heads)
        if min(self.classes, self.text_vocab) < 0 or (self.classes and self.text_vocab):
            raise InputError(f"classes={self.classes} and text_vocab={self.text_vocab}: at most one may be above 0")
        if self.text_vocab and self.text_length < 2:
            raise InputError(f"text_length is {self.text_length}: a model with a text_vocab needs at least 2")
        for name in ("embedding_dropout", "dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected a rate in [0, 1)")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if self.target not in ("hard", "soft"):
            raise InputError(f'target is {self.target!r}: expected "hard" or "soft"')
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}: expected a number above 0")

    def check_tokenizer(self, tokenizer: RQVAEConfig) -> None:
        """Raises InputError if the codes of this tokenizer are not those that the prior models."""
        theirs = tokenizer.quantizer
        found = {"code_shape": tuple(tokenizer.code_shape), "depth": theirs.depth, "codebook_size": theirs.sizes}
        wanted = {"code_shape": tuple(self.code_shape), "depth": self.depth, "codebook_size": self.sizes}
        if self.input_emb_vqvae or self.head_emb_vqvae:
            found["input_dim"], wanted["input_dim"] = tokenizer.settings().dim, self.input_dim
        for name, value in wanted.items():
            if found[name] != value:
                raise InputError(f"the prior's {name} is {value}, the tokenizer has {found[name]}: make them equal")

    def init(self, key: Key[Array, ""]) -> "RQTransformer":
        """A new model: matrices and embeddings N(0, 0.02), biases 0, norms 1 and 0."""
        names = [field.name for field in dataclasses.fields(RQTransformer) if field.name not in ("network", "sizes")]
        settings = {name: getattr(self, name) for name in names}
        settings["code_shape"] = tuple(self.code_shape)
        return RQTransformer(network=_network(self, key), sizes=self.sizes, **settings)


def _network(config: RQTransformerConfig, key: Array) -> RQTransformerNetwork:
    stack = {name: getattr(config, name) for name in ("dropout", "attention_dropout", "sigmoid_gelu", "remat")}
    same = ("dim", "input_dim", "embedding_dropout", "input_emb_vqvae", "head_emb_vqvae", "cumsum_depth_ctx")
    settings: dict[str, Any] = {name: getattr(config, name) for name in (*same, "shared_tok_emb", "shared_cls_emb")}
    return RQTransformerNetwork(
        positions=config.code_shape[0] * config.code_shape[1],
        sizes=config.sizes,
        conditions=config.text_vocab or max(config.classes, 1),
        condition_length=config.text_length if config.text_vocab else 1,
        body=stack | {"layers": config.body_layers, "heads": config.body_heads},
        head=stack | {"layers": config.head_layers, "heads": config.head_heads},
        dtype=DTYPES[config.dtype],
        rngs=nnx.Rngs(key),
        **settings,
    )


def _static() -> Any:
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RQTransformer:
    """An RQ-Transformer as stages see a prior. Codes are [b h w depth]; labels are classes [b] or texts [b length]."""

    network: Any
    code_shape: tuple[int, int] = _static()
    depth: int = _static()
    sizes: tuple[int, ...] = _static()
    classes: int = _static()
    text_vocab: int = _static()
    text_length: int = _static()
    target: str = _static()
    temperature: float = _static()
    stochastic: bool = _static()
    loss_chunk: int = _static()
    image_loss_weight: float = _static()
    text_loss_weight: float = _static()

    def conditions(self, labels: Int[Array, "b"] | Int[Array, "b length"]) -> Int[Array, "b conditions"]:
        """The ids in front of the codes: the text, the class, or 0 for a model without conditions."""
        if self.text_vocab:
            return labels
        return (labels if self.classes else jnp.zeros_like(labels)).reshape(labels.shape[0], -1)[:, :1]

    def vectors(self, codebooks: Codebooks, codes: Int[Array, "*grid d"]) -> Float[Array, "*grid d input_dim"]:
        """The tokenizer's vectors of the codes of the first `d` depths; of width 0 if the network does without."""
        if not (self.network.input_emb_vqvae or self.network.head_emb_vqvae):
            return jnp.zeros((*codes.shape, 0))
        return embed_codes_with_depth(codebooks[: codes.shape[-1]], codes)

    def logits(
        self,
        codebooks: Codebooks,
        codes: Int[Array, "b h w depth"],
        labels: Int[Array, "b"] | Int[Array, "b length"],
    ) -> tuple[Float[Array, "b h w depth vocab"], Float[Array, "b texts text_vocab"]]:
        """Teacher-forced logits of every code, and of the text tokens from the second on (none without a text)."""
        text, outputs = self.outputs(self.network, codebooks, codes, labels, None)
        logits = rearrange(self.network.classifier(outputs), "b (h w) d k -> b h w d k", h=codes.shape[1])
        if not self.text_vocab:
            return logits, jnp.zeros((codes.shape[0], 0, 0))
        return logits, self.network.cond_classifier(text[:, :, None])[:, :, 0]

    def outputs(
        self,
        network: Any,
        codebooks: Codebooks,
        codes: Int[Array, "b h w depth"],
        labels: Int[Array, "b"] | Int[Array, "b length"],
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "b texts dim"], Float[Array, "b n depth dim"]]:
        """What the classifiers read: outputs of the body for the text, of the head for the codes (raster order)."""
        flat = rearrange(codes, "b h w d -> b (h w) d")
        vectors = self.vectors(codebooks, flat)
        k1, k2 = (None, None) if key is None else jax.random.split(key)
        text, spatial = network.hidden(self.conditions(labels), flat, vectors, k1)
        return text, network.depths(spatial, flat, vectors, k2)

    def loss(
        self,
        network: Any,
        tokenizer: RQVAE,
        image: Float[Array, "b height width 3"],
        labels: Int[Array, "b"] | Int[Array, "b length"],
        key: Key[Array, ""],
        train: bool,
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The loss of images for a frozen tokenizer, and metrics; see `rqloss.loss`."""
        return rqloss.loss(self, network, tokenizer, image, labels, key, train)

    def loss_from_codes(
        self,
        network: Any,
        codebooks: Codebooks,
        codes: Int[Array, "b h w depth"],
        labels: Int[Array, "b"] | Int[Array, "b length"],
        soft: Float[Array, "b h w depth vocab"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The loss of given codes, and metrics; see `rqloss.loss_from_codes`."""
        return rqloss.loss_from_codes(self, network, codebooks, codes, labels, soft, key)

    def generate(
        self,
        tokenizer: RQVAE,
        labels: Int[Array | np.ndarray, "b"] | Int[Array | np.ndarray, "b length"],
        key: Key[Array, ""],
        options: SamplingOptions,
        codes: Int[Array | np.ndarray, "b h w depth"] | None = None,
        start: tuple[int, int] = (0, 0),
    ) -> Int[Array, "b h w depth"]:
        """New codes, one image for each label; see `rqsampler.generate`."""
        return rqsampler.generate(self, tokenizer.codebooks, labels, key, options, codes, start)
