"""The PatchGAN discriminator, and the losses of the two players."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rqjax.errors import InputError
from rqjax.nets.init import torch_uniform
from rqjax.nets.partition import gathered

GANS = ("hinge", "vanilla")


class BatchNorm(nnx.Module):
    """Normalisation by the statistics of the batch at hand, and so without state: under jit that is the global batch.

    Initially the scale is N(1, 0.02) and the bias 0, as PatchGAN has it.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(1 + 0.02 * jax.random.normal(rngs.params(), (channels,)))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "b h w c"], groups: int = 1) -> Float[Array, "b h w c"]:
        y = rearrange(x.astype(jnp.float32), "(g b) h w c -> g b h w c", g=groups)
        mean = jnp.mean(y, (1, 2, 3), keepdims=True)
        variance = jnp.mean(jnp.square(y - mean), (1, 2, 3), keepdims=True)
        y = (y - mean) * jax.lax.rsqrt(variance + 1e-5) * self.scale[...] + self.bias[...]
        return rearrange(y, "g b h w c -> (g b) h w c").astype(x.dtype)


def _conv(inputs: int, outputs: int, stride: int, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Conv:
    """A 4x4 convolution; its kernel starts as N(0, 0.02), its bias as PyTorch's default."""
    return nnx.Conv(
        inputs,
        outputs,
        (4, 4),
        stride,
        padding=((1, 1), (1, 1)),
        use_bias=bias,
        dtype=dtype,
        kernel_init=nnx.initializers.normal(0.02),
        bias_init=torch_uniform(16 * inputs),
        promote_dtype=gathered,
        rngs=rngs,
    )


class Block(nnx.Module):
    """Convolution without bias, batch normalisation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = _conv(inputs, outputs, stride, False, dtype, rngs)
        self.norm = BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], groups: int = 1) -> Float[Array, "b h2 w2 c2"]:
        return jax.nn.leaky_relu(self.norm(self.conv(x), groups), 0.2)


class Discriminator(nnx.Module):
    """Logits for overlapping patches of an image, higher for what looks real (PatchGAN, Isola et al. 2017).

    `num_layers` strided convolutions (RQ 2, DQ 3), of `ndf` channels in the first and twice as many in each next one,
    8 times at most.
    """

    def __init__(self, ndf: int, num_layers: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        widths = [ndf * min(2**i, 8) for i in range(num_layers + 1)]
        strides = [2] * (num_layers - 1) + [1]
        self.conv_in = _conv(3, ndf, 2, True, dtype, rngs)
        self.blocks = nnx.List(
            [
                Block(inputs, outputs, stride, dtype=dtype, rngs=rngs)
                for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True)
            ]
        )
        self.conv_out = _conv(widths[-1], 1, 1, True, dtype, rngs)

    def __call__(self, image: Float[Array, "b h w 3"], groups: int = 1) -> Float[Array, "b h2 w2"]:
        """Float32 logits of images in [-1, 1].

        Normalisation takes its statistics from each of `groups` consecutive parts of the batch: 1 is the whole batch,
        and batch / 32 is what the papers' data-parallel training did. Raises InputError if they don't divide the batch.
        """
        if image.shape[0] % groups:
            raise InputError(f"disc_groups={groups} does not divide the batch of {image.shape[0]}: choose a divisor")
        x = jax.nn.leaky_relu(self.conv_in(image), 0.2)
        for block in self.blocks:
            x = block(x, groups)
        return rearrange(self.conv_out(x), "b h w 1 -> b h w").astype(jnp.float32)


def generator_loss(fake: Float[Array, "b h w"]) -> Float[Array, ""]:
    """The adversarial loss, for either kind of GAN: minus the mean logit of the reconstructions."""
    return -jnp.mean(fake)


def discriminator_loss(gan: str, real: Float[Array, "b h w"], fake: Float[Array, "b h w"]) -> Float[Array, ""]:
    """The discriminator's loss, `hinge` or `vanilla` (one of GANS), of its logits."""
    margin = (lambda x: jax.nn.relu(1 + x)) if gan == "hinge" else jax.nn.softplus
    return (jnp.mean(margin(-real)) + jnp.mean(margin(fake))) / 2


def adaptive_weight(
    last_layer: nnx.Conv | nnx.Linear,
    features: Float[Array, "b _ _ c"],
    d_nll: Float[Array, "b h w 3"],
    d_adv: Float[Array, "b h w 3"],
) -> Float[Array, ""]:
    """Lambda, the norm of the reconstruction loss's gradient over that of the adversarial loss, at most 1e4.

    Both are taken by the kernel of the layer that made the reconstruction from `features`, given the losses' gradients
    by the reconstruction (VQ-GAN, Esser et al. 2021, equation 7).
    """
    _, pullback = jax.vjp(lambda layer: layer(features), last_layer)
    nll, adversarial = (jnp.linalg.norm(pullback(cotangent)[0].kernel[...]) for cotangent in (d_nll, d_adv))
    return jnp.clip(nll / (adversarial + 1e-4), 0, 1e4)
