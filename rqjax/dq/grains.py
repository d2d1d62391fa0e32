"""The encoder that sees an image at two or three grains, and the decoder that knows where it is (Huang et al. 2023)."""

import math

import jax
import jax.numpy as jnp
from einops import repeat
from flax import nnx
from jaxtyping import Array, Float

from rqjax.dq.router import NAMES, FeatureRouter
from rqjax.nets.autoencoder import Decoder, LevelConfig, Mid, Trunk, conv, group_norm
from rqjax.nets.init import torch_uniform
from rqjax.nets.patches import PatchConfig, PatchEncoder, linear, merged

APPLIED = ("learned", "learned-relative", "fourier+learned")
UNAPPLIED = ("unapplied", "unapplied-relative")
"""The reference builds the tables of its types "learned" and "learned-relative" but never adds them. Its checkpoints of
those types are these here: the tables are held, to be given back, and nothing is added. Ours apply what they are asked
for.
"""
POSITIONS = ("none", "fourier", *APPLIED, *UNAPPLIED)
"""The kinds of positions that a decoder adds to its input."""


class GrainEncoder(Trunk):
    """An image becomes one latent map per grain, from coarse to fine, each twice the size of the one before.

    The last levels of the trunk are tapped before their Downsample, and each tap has a head of its own. A `router` of
    features, where there is one, is held here as in the published checkpoints; the model applies it.
    """

    def __init__(self, config: LevelConfig, grains: int, router: FeatureRouter | None, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.grains, dtype = grains, config.compute_dtype
        for name, width in zip(NAMES[grains], reversed(config.widths), strict=False):
            setattr(
                self,
                f"mid_{name}",
                Mid(width, rngs=rngs, dtype=dtype, remat=config.remat, keep_products=config.keep_products),
            )
            setattr(self, f"norm_out_{name}", group_norm(width, rngs=rngs, dtype=dtype))
            setattr(self, f"conv_out_{name}", conv(width, config.z_channels, 3, rngs=rngs, dtype=dtype))
        if router is not None:
            self.router = router

    def __call__(self, image: Float[Array, "b height width 3"]) -> tuple[Float[Array, "b _ _ z_channels"], ...]:
        features = []
        for name, x in zip(NAMES[self.grains], reversed(self.levels(image)), strict=False):
            x = getattr(self, f"mid_{name}")(x)
            x = jax.nn.silu(getattr(self, f"norm_out_{name}")(x))
            features.append(getattr(self, f"conv_out_{name}")(x))
        return tuple(features)


class PatchGrainEncoder(PatchEncoder):
    """An image becomes one latent map per grain, from coarse to fine, out of one transformer over its finest patches.

    A coarser grain's vector is a linear map of the patches of its region, side by side; so every grain has a head of
    its own. A `router` of features, where there is one, is held here; the model applies it.
    """

    def __init__(self, config: PatchConfig, grains: int, router: FeatureRouter | None, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        windows = [2 ** (grains - 1 - g) for g in range(grains)]
        self.heads = nnx.List(
            [linear(w * w * config.dim, config.dim, rngs=rngs, dtype=config.compute_dtype) for w in windows]
        )
        self.windows = tuple(windows)
        if router is not None:
            self.router = router

    def __call__(self, image: Float[Array, "b height width 3"]) -> tuple[Float[Array, "b _ _ dim"], ...]:
        x = super().__call__(image)
        return tuple(head(merged(x, window)) for head, window in zip(self.heads, self.windows, strict=True))


class FourierPosition(nnx.Module):
    """Adds the sine of a learned linear map of the coordinates (column, row), each from -1 to 1 over a square grid."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        bound = math.sqrt(9 / 2)
        self.conv = nnx.Conv(
            2,
            dim,
            (1, 1),
            precision="highest",
            kernel_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
            bias_init=torch_uniform(2),
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b h w dim"]) -> Float[Array, "b h w dim"]:
        rows, columns = (jnp.linspace(-1, 1, n) for n in x.shape[1:3])
        row, column = jnp.meshgrid(rows, columns, indexing="ij")
        return x + jnp.sin(self.conv(jnp.stack([column, row], axis=-1)[None]))


class LearnedPosition(nnx.Module):
    """Adds a vector per row and one per column; a table smaller than the grid repeats, to tell places in a window."""

    def __init__(self, size: int, dim: int, *, rngs: nnx.Rngs):
        init = jax.nn.initializers.truncated_normal(1.0)
        self.row_embed = nnx.Embed(size, dim, embedding_init=init, rngs=rngs)
        self.col_embed = nnx.Embed(size, dim, embedding_init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w dim"]) -> Float[Array, "b h w dim"]:
        row, column = self.row_embed.embedding[...], self.col_embed.embedding[...]
        row = repeat(row, "h d -> (n h) 1 d", n=x.shape[1] // row.shape[0])
        return x + (row + repeat(column, "w d -> (n w) d", n=x.shape[2] // column.shape[0]))


class PositionalDecoder(Decoder):
    """The decoder, with positions added to its input as `position` says (one of POSITIONS).

    `latent_size` is the side of that input; `window_size` the side of the windows of relative ones.
    """

    def __init__(self, config: LevelConfig, *, position: str, latent_size: int, window_size: int, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.fourier, self.learned = "fourier" in position, position in APPLIED
        if self.fourier:
            self.position_bias_fourier = FourierPosition(config.z_channels, rngs=rngs)
        if position in (*APPLIED, *UNAPPLIED):
            size = window_size if position.endswith("relative") else latent_size
            self.position_bias_learned = LearnedPosition(size, config.z_channels, rngs=rngs)

    def features(self, z: Float[Array, "b h w z_channels"]) -> Float[Array, "b h2 w2 c"]:
        """The input of the last layer, `conv_out`."""
        z = z.astype(jnp.float32)
        z = self.position_bias_fourier(z) if self.fourier else z
        z = self.position_bias_learned(z) if self.learned else z
        return super().features(z)
