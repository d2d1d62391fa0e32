"""An encoder and a decoder that are transformers over patches (ViT-VQGAN, Yu et al. 2022, section 3.1).

They stand where nets/autoencoder.py has convolutions: matrix products are all that they compute.
"""

import dataclasses

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rqjax.errors import InputError
from rqjax.nets.init import DTYPES
from rqjax.nets.partition import by_batch, gathered
from rqjax.nets.transformer import NORMAL, BlockSettings, Stack, layer_norm


@dataclasses.dataclass(kw_only=True)
class PatchConfig:
    """The part of a tokenizer's configuration that makes its two transformers. The sizes are ViT-VQGAN's Base."""

    resolution: int = 256  # of the images
    patch_size: int = 8  # the side of a patch in pixels; each is a token
    dim: int = 768  # width of a token
    layers: int = 12  # of the encoder, and as many of the decoder
    heads: int = 12  # of attention
    qk_norm: bool = False  # normalised queries and keys
    rope: bool = False  # two-dimensional rotary positions, beside the learned ones
    sigmoid_gelu: bool = False  # x sigmoid(1.702 x) for the exact GELU
    dtype: str = "float32"  # of computation; parameters are float32
    remat: bool = False  # activations are computed again in the backward pass
    keep_products: bool = False  # with remat: but not the results of products with weights

    @property
    def grid(self) -> int:
        """The side of the map of patches."""
        return self.resolution // self.patch_size

    @property
    def z_channels(self) -> int:
        """The width of what the encoder gives and the decoder takes."""
        return self.dim

    @property
    def compute_dtype(self) -> DTypeLike:
        return DTYPES[self.dtype]

    def check_patches(self) -> None:
        """Raises InputError for values that make no transformer over patches."""
        for name in ("resolution", "patch_size", "dim", "layers", "heads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected a whole number of at least 1")
        for part, whole in (("patch_size", "resolution"), ("heads", "dim")):
            if getattr(self, whole) % getattr(self, part):
                raise InputError(
                    f"{part}={getattr(self, part)} does not divide {whole}={getattr(self, whole)}: choose a divisor"
                )
        if self.rope and self.dim // self.heads % 4:
            size = self.dim // self.heads
            raise InputError(f"rope with heads of {size} features (dim / heads): choose a multiple of 4")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")


def linear(inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype: DTypeLike) -> nnx.Linear:
    """A linear layer of a map that lies by batch, with the weights whole on every device."""
    return nnx.Linear(inputs, outputs, dtype=dtype, kernel_init=NORMAL, promote_dtype=gathered, rngs=rngs)


class GridTransformer(nnx.Module):
    """Layers in which every place of a square map sees all others, between learned positions and a norm."""

    def __init__(self, config: PatchConfig, rngs: nnx.Rngs):
        c = config
        rope = (0, c.grid, c.grid) if c.rope else None
        block = BlockSettings(
            keep_products=c.keep_products,
            causal=False,
            sigmoid_gelu=c.sigmoid_gelu,
            qk_norm=c.qk_norm,
            rope=rope,
            dtype=c.compute_dtype,
        )
        self.position = nnx.Param(NORMAL(rngs.params(), (c.grid, c.grid, c.dim)))
        self.stack = Stack(c.layers, c.dim, c.heads, block, c.remat, rngs)
        self.norm = layer_norm(c.dim, rngs)

    def __call__(self, x: Float[Array, "b h w dim"]) -> Float[Array, "b h w dim"]:
        """The map after all layers, float32."""
        tokens = rearrange(x + self.position[...], "b h w d -> b (h w) d")
        return rearrange(self.norm(self.stack(tokens)), "b (h w) d -> b h w d", h=x.shape[1])


class PatchEncoder(nnx.Module):
    """An image [b height width 3] in [-1, 1] becomes a latent map with a vector for each patch."""

    def __init__(self, config: PatchConfig, rngs: nnx.Rngs):
        self.size = config.patch_size
        self.embed = linear(3 * config.patch_size**2, config.dim, rngs=rngs, dtype=config.compute_dtype)
        self.transformer = GridTransformer(config, rngs)

    def __call__(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        patches = rearrange(image, "b (h p) (w q) c -> b h w (p q c)", p=self.size, q=self.size)
        return self.transformer(self.embed(patches))


class ToPixels(nnx.Linear):
    """The vector of each place becomes the pixels of its patch; in float32, as a byte has more levels than bfloat16."""

    def __init__(self, config: PatchConfig, rngs: nnx.Rngs):
        outputs = 3 * config.patch_size**2
        super().__init__(config.dim, outputs, dtype=jnp.float32, kernel_init=NORMAL, promote_dtype=gathered, rngs=rngs)
        self.size = config.patch_size

    def __call__(self, inputs: Float[Array, "b h w dim"], out_sharding=None) -> Float[Array, "b height width 3"]:
        pixels = super().__call__(inputs, out_sharding)
        return by_batch(rearrange(pixels, "b h w (p q c) -> b (h p) (w q) c", p=self.size, q=self.size))


class PatchDecoder(nnx.Module):
    """A latent map [b h w dim] becomes an image [b height width 3], float32, not clamped."""

    def __init__(self, config: PatchConfig, rngs: nnx.Rngs):
        self.transformer = GridTransformer(config, rngs)
        self.to_pixels = ToPixels(config, rngs)

    @property
    def last_layer(self) -> ToPixels:
        return self.to_pixels

    def features(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b h w dim"]:
        """The input of the last layer."""
        return self.transformer(z)

    def __call__(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        return self.to_pixels(self.features(z))


def merged(x: Float[Array, "b h w dim"], window: int) -> Float[Array, "b h2 w2 wide"]:
    """The vectors of each window of a map side by side: a coarser map, of `window` squared times the width."""
    return rearrange(x, "b (h r) (w s) d -> b h w (r s d)", r=window, s=window)
