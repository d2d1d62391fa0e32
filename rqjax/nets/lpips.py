"""LPIPS, the perceptual distance of two images, on the features of VGG16."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from einops import reduce
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rqjax.errors import InputError
from rqjax.nets.init import Rngs

# Output channels of VGG16's convolutions; each group ends in a tap and, but for the last, in a pooling.
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
REMEDY = "download vgg16-397923af.pth from the torchvision model zoo (download.pytorch.org/models)"
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class LPIPS(nnx.Module):
    """The learned perceptual image patch similarity of Zhang et al. (2018): VGG16 features, one weight per channel.

    As made it holds random weights: `rqjax.torchfile.lpips` fills in the published ones. It computes features in
    `dtype` and distances in float32, and is never trained.
    """

    def __init__(self, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        widths = [3, *(width for group in VGG16 for width in group)]
        self.convs = nnx.List(
            [
                nnx.Conv(inputs, outputs, (3, 3), padding=((1, 1), (1, 1)), dtype=dtype, rngs=rngs)
                for inputs, outputs in itertools.pairwise(widths)
            ]
        )
        self.lins = nnx.List([nnx.Param(jax.random.uniform(rngs.params(), (group[-1],))) for group in VGG16])

    def __call__(self, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, "b"]:
        """The distance of each pair of images in [-1, 1]: 0 for equal ones.

        Raises InputError for images of fewer than 16 pixels a side, of which the poolings would leave nothing.
        """
        if min(a.shape[1:3]) < 16:
            raise InputError(f"LPIPS of {a.shape[1]}x{a.shape[2]} images: it needs 16x16, or perceptual_weight 0")
        total = jnp.zeros(a.shape[0])
        for x, y, lin in zip(self.taps(a), self.taps(b), self.lins, strict=True):
            difference = jnp.square(_unit(x) - _unit(y))
            total += jnp.mean(jnp.sum(difference * lin[...], -1), (1, 2))
        return total

    def taps(self, image: Float[Array, "b h w 3"]) -> Iterator[Float[Array, "b h2 w2 c"]]:
        """The last activations of each of the five resolutions, finest first."""
        x = (image - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        convs = iter(self.convs)
        for i, group in enumerate(VGG16):
            if i:
                height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
                x = reduce(x[:, :height, :width], "b (h i) (w j) c -> b h w c", "max", i=2, j=2)
            for _ in group:
                x = jax.nn.relu(next(convs)(x))
            yield x


def shapes(dtype: DTypeLike = jnp.float32) -> LPIPS:
    """LPIPS with shapes in place of arrays."""
    return jax.eval_shape(lambda: LPIPS(dtype=dtype, rngs=Rngs(0)))


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Channels scaled to unit norm; the maximum gives a finite gradient, at equal value, where all of them are zero."""
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    return x / (jnp.sqrt(jnp.maximum(square, 1e-36)) + 1e-10)
