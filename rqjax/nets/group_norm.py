"""Group normalisation (Wu and He, 2018) whose sums are taken by channel first.

nnx's gives each group an axis of its own beside that of its channels, which is 4 wide for 128 channels: too narrow for
a CPU's vectors and a TPU's tiles.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class GroupNorm(nnx.GroupNorm):
    """nnx.GroupNorm of images, with the same parameters; statistics in float32, the variance in two passes."""

    def __call__(self, x: Float[Array, "b h w c"], *, mask: None = None) -> Float[Array, "b h w c"]:  # pyrefly: ignore
        """The images, with mean 0 and variance 1 in each group of channels, then scaled and shifted by channel."""
        assert self.scale is not None
        assert self.bias is not None
        x, scale, bias = self.promote_dtype((x, self.scale[...], self.bias[...]), dtype=self.dtype)
        wide = x.astype(jnp.float32)
        mean = self._of_groups(jnp.mean(wide, (1, 2)))
        variance = self._of_groups(jnp.mean(jnp.square(wide - mean), (1, 2)))
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (wide * factor + (bias - mean * factor)).astype(x.dtype)

    def _of_groups(self, of_channels: Float[Array, "b c"]) -> Float[Array, "b 1 1 c"]:
        """The mean of each channel's group."""
        of_groups = jnp.mean(of_channels.reshape(len(of_channels), self.num_groups, -1), axis=-1)
        return jnp.repeat(of_groups, self.group_size, axis=1)[:, None, None]
