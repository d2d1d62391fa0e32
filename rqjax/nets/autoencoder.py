"""The convolutional encoder and decoder of both tokenizers: residual blocks over levels of halving resolution.

Names of attributes are those of the published checkpoints. Widths, resolutions and counts are plain numbers here.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rqjax.errors import InputError
from rqjax.nets.convolution import convolve
from rqjax.nets.group_norm import GroupNorm
from rqjax.nets.init import DTYPES, torch_uniform
from rqjax.nets.partition import by_batch, gathered
from rqjax.nets.recompute import product, recomputed


@dataclasses.dataclass(kw_only=True)
class LevelConfig:
    """The part of a tokenizer's configuration that makes an encoder or a decoder.

    Its levels are listed from full to lowest resolution. Defaults are those that both papers share.
    """

    resolution: int = 256  # of the images
    ch: int = 128  # channels of a level of multiplier 1
    ch_mult: tuple[int, ...]  # the width of each level over `ch`
    num_res_blocks: int = 2  # of each level of the encoder; of the decoder one more
    attn_resolutions: tuple[int, ...]  # sides of the maps that have attention
    z_channels: int = 256  # of the latent map
    dtype: str = "float32"  # of computation; parameters are float32
    remat: bool  # activations are computed again in the backward pass
    keep_products: bool = False  # with remat: but not the results of convolutions

    @property
    def compute_dtype(self) -> DTypeLike:
        return DTYPES[self.dtype]

    @property
    def widths(self) -> list[int]:
        """The channels of each level."""
        return [self.ch * multiplier for multiplier in self.ch_mult]


def check_attention(resolution: int, levels: int, **fields: Sequence[int]) -> None:
    """Refuses resolutions of attention that none of the levels has."""
    sizes = [resolution >> i for i in range(levels)]
    for name, attends in fields.items():
        if strange := [size for size in attends if size not in sizes]:
            raise InputError(f"{name} {strange} never occur: the levels have {sizes}")


def conv(inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs, dtype, stride: int = 1, padding="SAME") -> nnx.Conv:
    """A convolution with bias, initialised as PyTorch does."""
    init = torch_uniform(inputs * size * size)
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=padding,
        dtype=dtype,
        kernel_init=init,
        bias_init=init,
        conv_general_dilated=convolve,
        promote_dtype=gathered,
        rngs=rngs,
    )


def group_norm(channels: int, *, rngs: nnx.Rngs, dtype) -> GroupNorm:
    """Normalisation in 32 groups (fewer where 32 does not divide the channels), statistics in float32."""
    groups = math.gcd(32, channels)
    return GroupNorm(channels, groups, epsilon=1e-6, dtype=dtype, rngs=rngs)


class ResBlock(nnx.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype):
        self.norm1 = group_norm(inputs, rngs=rngs, dtype=dtype)
        self.conv1 = conv(inputs, outputs, 3, rngs=rngs, dtype=dtype)
        self.norm2 = group_norm(outputs, rngs=rngs, dtype=dtype)
        self.conv2 = conv(outputs, outputs, 3, rngs=rngs, dtype=dtype)
        self.nin_shortcut = conv(inputs, outputs, 1, rngs=rngs, dtype=dtype) if inputs != outputs else None

    def __call__(self, x: Float[Array, "b h w inputs"]) -> Float[Array, "b h w outputs"]:
        y = product(self.conv1(jax.nn.silu(self.norm1(x))))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return by_batch(y + (x if self.nin_shortcut is None else self.nin_shortcut(x)))


class AttnBlock(nnx.Module):
    """Attention of one head over all positions, softmax in float32, beside an identity."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype):
        self.norm = group_norm(channels, rngs=rngs, dtype=dtype)
        self.q, self.k, self.v, self.proj_out = (conv(channels, channels, 1, rngs=rngs, dtype=dtype) for _ in range(4))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = self.norm(x)
        q, k, v = (layer(y).reshape(b, h * w, 1, c) for layer in (self.q, self.k, self.v))
        y = jax.nn.dot_product_attention(q, k, v, implementation="xla")
        return by_batch(x + self.proj_out(y.reshape(b, h, w, c)))


class Downsample(nnx.Module):
    """Half the resolution: a strided convolution over input padded at the bottom and on the right only."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype):
        self.conv = conv(channels, channels, 3, stride=2, padding=((0, 1), (0, 1)), rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the resolution: every pixel repeated, then a convolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype):
        self.conv = conv(channels, channels, 3, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


class Level(nnx.Module):
    """The blocks of level `i`, each followed by attention where the level attends; the caller resamples."""

    def __init__(self, s: LevelConfig, i: int, inputs: int, blocks: int, rngs: nnx.Rngs, *, down=False, up=False):
        width, more = s.widths[i], {"rngs": rngs, "dtype": s.compute_dtype}
        attentions = blocks if s.resolution >> i in s.attn_resolutions else 0
        self.remat, self.keep_products = s.remat, s.keep_products
        self.block = nnx.List([ResBlock(width if j else inputs, width, **more) for j in range(blocks)])
        self.attn = nnx.List([AttnBlock(width, **more) for _ in range(attentions)])
        self.downsample = Downsample(width, **more) if down else None
        self.upsample = Upsample(width, **more) if up else None

    def __call__(self, x: Float[Array, "b h w inputs"]) -> Float[Array, "b h w outputs"]:
        for j, block in enumerate(self.block):
            x = apply_block(block, x, self.remat, self.keep_products)
            if len(self.attn):
                x = self.attn[j](x)
        return x


class Mid(nnx.Module):
    """A block, attention, a block, at the lowest resolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype, remat: bool, keep_products: bool = False):
        self.remat, self.keep_products = remat, keep_products
        self.block_1 = ResBlock(channels, channels, rngs=rngs, dtype=dtype)
        self.attn_1 = AttnBlock(channels, rngs=rngs, dtype=dtype)
        self.block_2 = ResBlock(channels, channels, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = self.attn_1(apply_block(self.block_1, x, self.remat, self.keep_products))
        return apply_block(self.block_2, x, self.remat, self.keep_products)


def apply_block(
    block: ResBlock, x: Float[Array, "b h w inputs"], remat: bool, keep_products: bool
) -> Float[Array, "b h w outputs"]:
    """block(x), whose activations are kept for the backward pass or not: see nets.recompute."""
    return recomputed(lambda block, x: block(x), remat, keep_products)(block, x)


class Trunk(nnx.Module):
    """The way down from an image through all levels; an encoder adds its head or heads."""

    def __init__(self, config: LevelConfig, rngs: nnx.Rngs):
        s, last = config, len(config.ch_mult) - 1
        self.dtype = s.compute_dtype
        self.conv_in = conv(3, s.ch, 3, rngs=rngs, dtype=s.compute_dtype)
        self.down = nnx.List(
            Level(s, i, inputs, s.num_res_blocks, rngs, down=i < last)
            for i, inputs in enumerate([s.ch, *s.widths[:-1]])
        )

    def levels(self, image: Float[Array, "b h w 3"]) -> list[Array]:
        """The output of every level, from full to lowest resolution, each before its Downsample."""
        x, outputs = self.conv_in(image.astype(self.dtype)), []
        for level in self.down:
            x = level(x)
            outputs.append(x)
            x = x if level.downsample is None else level.downsample(x)
        return outputs


class Encoder(Trunk):
    """An image [b h w 3] in [-1, 1] becomes a latent map [b h/f w/f z_channels], f = 2^(levels - 1)."""

    def __init__(self, config: LevelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        width, dtype = config.widths[-1], config.compute_dtype
        self.mid = Mid(width, rngs=rngs, dtype=dtype, remat=config.remat, keep_products=config.keep_products)
        self.norm_out = group_norm(width, rngs=rngs, dtype=dtype)
        self.conv_out = conv(width, config.z_channels, 3, rngs=rngs, dtype=dtype)

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 z_channels"]:
        x = self.mid(self.levels(image)[-1])
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


class Decoder(nnx.Module):
    """A latent map [b h w z_channels] becomes an image [b h*f w*f 3], float32, not clamped.

    `up` is indexed by level: 0 has full resolution and runs last.
    """

    def __init__(self, config: LevelConfig, rngs: nnx.Rngs):
        s, widths = config, config.widths
        self.dtype = s.compute_dtype
        self.conv_in = conv(s.z_channels, widths[-1], 3, rngs=rngs, dtype=s.compute_dtype)
        self.mid = Mid(widths[-1], rngs=rngs, dtype=s.compute_dtype, remat=s.remat, keep_products=s.keep_products)
        self.up = nnx.List(
            Level(s, i, inputs, s.num_res_blocks + 1, rngs, up=i > 0)
            for i, inputs in enumerate([*widths[1:], widths[-1]])
        )
        self.norm_out = group_norm(widths[0], rngs=rngs, dtype=s.compute_dtype)
        # in float32 also when the rest is not: a bfloat16 pixel has fewer levels than a byte
        self.conv_out = conv(widths[0], 3, 3, rngs=rngs, dtype=jnp.float32)

    @property
    def last_layer(self) -> nnx.Conv:
        return self.conv_out

    def features(self, z: Float[Array, "b h w z_channels"]) -> Float[Array, "b h2 w2 c"]:
        """The input of the last layer."""
        x = self.mid(self.conv_in(z.astype(self.dtype)))
        for level in reversed(self.up):
            x = level(x)
            x = x if level.upsample is None else level.upsample(x)
        return jax.nn.silu(self.norm_out(x))

    def __call__(self, z: Float[Array, "b h w z_channels"]) -> Float[Array, "b h2 w2 3"]:
        return self.conv_out(self.features(z))
