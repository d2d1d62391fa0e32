"""RQ-VAE: an image as a small grid of codes, several to a position, and back (Lee et al. 2022, section 3.1)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, Scalar

from rqjax.errors import InputError
from rqjax.nets.autoencoder import Decoder, Encoder, conv
from rqjax.quantize import residual, soft
from rqjax.quantize.codebook import init_codebook
from rqjax.quantize.config import QuantizerConfig

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class RQVAEConfig:
    """An RQ-VAE. The defaults are the model that Lee et al. (2022) trained on ImageNet: 256x256 pixels, 8x8x4 codes."""

    resolution: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (8,)
    z_channels: int = 256
    embed_dim: int = 256
    code_shape: tuple[int, int] = (8, 8)
    quantizer: QuantizerConfig = dataclasses.field(default_factory=QuantizerConfig)
    dtype: str = "float32"  # of computation; parameters are float32
    remat: bool = True

    def settings(self) -> residual.ResidualSettings:
        """The part of it that the quantizer needs."""
        latent, q = self.resolution >> (len(self.ch_mult) - 1), self.quantizer
        return residual.ResidualSettings(
            depth=q.depth,
            latent_shape=(latent, latent, self.embed_dim),
            code_shape=tuple(self.code_shape),
            decay=tuple(float(decay) for decay in q.decay),
            restart_threshold=float(q.restart_threshold),
            update_once_per_step=q.update_once_per_step,
            restart_warning=q.restart_warning,
        )

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        for name in ("resolution", "ch", "num_res_blocks", "z_channels", "embed_dim", "ch_mult"):
            values = getattr(self, name)
            if min(values if isinstance(values, tuple) else (values,), default=0) < 1:
                raise InputError(f"{name} is {values}: expected whole numbers of at least 1")
        levels = [self.resolution >> i for i in range(len(self.ch_mult))]
        if self.resolution % 2 ** (len(levels) - 1):
            raise InputError(f"resolution {self.resolution} cannot be halved {len(levels) - 1} times: shorten ch_mult")
        if strange := [size for size in self.attn_resolutions if size not in levels]:
            raise InputError(f"attn_resolutions {strange} never occur: the levels have {levels}")
        sizes, q = self.quantizer.codebook_size, self.quantizer
        if min(sizes, default=0) < 1:
            raise InputError(f"codebook_size is {sizes}: expected whole numbers of at least 1")
        if len(sizes) not in (1, q.depth):
            raise InputError(
                f"codebook_size has {len(sizes)} sizes for depth {q.depth}: give one, or one for each depth"
            )
        if len(q.decay) not in (1, len(sizes)):
            raise InputError(f"{len(q.decay)} decays for {len(sizes)} codebooks: give one, or one for each")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")
        try:
            self.settings().check()
        except ValueError as error:
            raise InputError(str(error)) from None

    def init(self, key: Key[Array, ""]) -> "RQVAE":
        """A new model; random values as PyTorch would draw them, codebooks N(0, 1)."""
        settings = self.settings()
        network_key, key = jax.random.split(key)
        sizes = self.quantizer.codebook_size
        keys = jax.random.split(key, len(sizes))
        return RQVAE(
            network=_network(self, network_key),
            codebooks=tuple(init_codebook(k, size, settings.dim) for k, size in zip(keys, sizes, strict=True)),
            padding=jnp.zeros((len(sizes), settings.dim)),
            settings=settings,
            commitment_weight=self.quantizer.commitment_weight,
        )


class Network(nnx.Module):
    """All that gradients train: the encoder, the decoder, and a 1x1 convolution on either side of the codes."""

    def __init__(self, encoder: Encoder, decoder: Decoder, z_channels: int, embed_dim: int, *, rngs: nnx.Rngs, dtype):
        self.encoder, self.decoder = encoder, decoder
        # latents in float32, so that codes don't hang on rounding
        self.quant_conv = conv(z_channels, embed_dim, 1, rngs=rngs, dtype=jnp.float32)
        self.post_quant_conv = conv(embed_dim, z_channels, 1, rngs=rngs, dtype=dtype)

    def latent(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        """The latent map, float32, before quantization."""
        return self.quant_conv(self.encoder(image))

    def features(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b height width c"]:
        """The input of the decoder's last layer for a latent map."""
        return self.decoder.features(self.post_quant_conv(z))

    def image(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        """The image for a latent map, float32, not clamped."""
        return self.decoder.conv_out(self.features(z))


def _network(config: RQVAEConfig, key: Array) -> Network:
    rngs, dtype = nnx.Rngs(key), DTYPES[config.dtype]
    names = ("resolution", "ch", "ch_mult", "num_res_blocks", "attn_resolutions", "z_channels", "remat")
    sizes: dict[str, Any] = {name: getattr(config, name) for name in names}
    encoder, decoder = Encoder(**sizes, dtype=dtype, rngs=rngs), Decoder(**sizes, dtype=dtype, rngs=rngs)
    return Network(encoder, decoder, config.z_channels, config.embed_dim, rngs=rngs, dtype=dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Forward:
    """What a training forward pass of a tokenizer gives to its stage."""

    reconstruction: Any  # [b h w 3]
    features: Any  # [b h w c], the input of decoder.conv_out
    loss: Any  # [], the weighted commitment
    codebooks: Any  # those after this step
    metrics: Any  # scalars by name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RQVAE:
    """An RQ-VAE as stages see a tokenizer. Images are [b h w 3] in [-1, 1]; codes [b h w depth]."""

    network: Any
    codebooks: Any
    padding: Any  # [books dim], the row that official codebooks hold behind the last code; never looked up
    settings: residual.ResidualSettings = dataclasses.field(metadata={"static": True})
    commitment_weight: float = dataclasses.field(metadata={"static": True})

    def with_codebooks(self, codebooks: residual.Codebooks) -> "RQVAE":
        """This model with other codebooks."""
        return dataclasses.replace(self, codebooks=codebooks)

    def train_forward(self, network: Network, image: Float[Array, "b h w 3"], key: Key[Array, ""]) -> Forward:
        """One pass in training mode: gradients reach `network` straight through the codes, and by the commitment."""
        z = network.latent(image)
        quantized, codebooks = residual.quantize(self.codebooks, z, key, self.settings, train=True)
        features = network.features(quantized.quantized)
        return Forward(
            reconstruction=network.decoder.conv_out(features),
            features=features,
            loss=self.commitment_weight * quantized.commitment,
            codebooks=codebooks,
            metrics={"commitment": quantized.commitment, **_by_depth(quantized.metrics)},
        )

    def latent(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        """The encoder's output, float32, before quantization.

        Raises InputError for images that are not a multiple of the network's stride, or of the window of a code.
        """
        stride = 2 ** (len(self.network.encoder.down) - 1)
        stride = tuple(stride * window for window in self.settings.window)
        if image.shape[1] % stride[0] or image.shape[2] % stride[1]:
            raise InputError(
                f"images of {image.shape[1]}x{image.shape[2]}: expected multiples of {stride[0]}x{stride[1]}"
            )
        return self.network.latent(image)

    def quantize(self, image: Float[Array, "b h w 3"]) -> residual.Quantized:
        """All that the quantizer says about an image in evaluation mode."""
        unused = jax.random.key(0)  # evaluation draws nothing
        return residual.quantize(self.codebooks, self.latent(image), unused, self.settings, train=False)[0]

    def encode(self, image: Float[Array, "b height width 3"]) -> Int[Array, "b h w depth"]:
        """The codes of an image."""
        return self.quantize(image).codes

    def decode_codes(self, codes: Int[Array, "b h w depth"]) -> Float[Array, "b height width 3"]:
        """The image that codes stand for, not clamped."""
        return self.network.image(residual.embed_codes(self.codebooks, codes, self.settings))

    def reconstruct(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """The image after a pass through its codes, not clamped."""
        return self.network.image(self.quantize(image).quantized)

    def partial_latents(self, image: Float[Array, "b height width 3"]) -> Float[Array, "depth b h w dim"]:
        """What the first 1, 2, ... codes of every position stand for, each a latent map for `network.image`."""
        return jnp.stack([residual.unfold(partial, self.settings) for partial in self.quantize(image).partial])

    def reconstruct_partial(
        self, image: Float[Array, "b h w 3"], depth_index: int, mode: str
    ) -> Float[Array, "b h w 3"]:
        """The image from the codes of one depth, from 0 ("select"), or of all depths up to it ("add")."""
        return self.decode_partial(self.encode(image), depth_index, mode)

    def decode_partial(
        self, codes: Int[Array, "b h w depth"], depth_index: int, mode: str
    ) -> Float[Array, "b height width 3"]:
        """The image from part of the codes, as in `reconstruct_partial`."""
        return self.network.image(residual.embed_partial(self.codebooks, codes, depth_index, mode, self.settings))

    def sample_codes(
        self,
        image: Float[Array, "b height width 3"],
        key: Key[Array, ""],
        temperature: float | Scalar,
        stochastic: bool,
        chunk: int = 8,
    ) -> tuple[Int[Array, "b h w depth"], Float[Array, "b h w depth dim"]]:
        """Codes drawn from the soft codes of an image, and the residuals to give `soft_targets` (section 3.2.3)."""
        z = self.latent(image)
        return soft.sample_codes(self.codebooks, z, key, self.settings, temperature, stochastic, chunk)

    def soft_targets(
        self, residuals: Float[Array, "*grid dim"], depth_index: int, temperature: float | Scalar
    ) -> Float[Array, "*grid codes"]:
        """The distribution over the book of one depth for its residuals."""
        return soft.targets(residual.codebook_at(self.codebooks, depth_index).embed, residuals, temperature)


def _by_depth(metrics: dict[str, Array]) -> dict[str, Array]:
    """Scalars by name: usage_1, usage_2 and so on."""
    named = {}
    for name, values in metrics.items():
        named |= {f"{name}_{i + 1}": value for i, value in enumerate(values)} if values.ndim else {name: values}
    return named
