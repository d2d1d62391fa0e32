"""All networks of a tokenizer, whatever the kind of its encoder and its decoder."""

from typing import Generic, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rqjax.nets.autoencoder import conv

E = TypeVar("E", bound=nnx.Module)
LastLayer = nnx.Conv | nnx.Linear
"""A layer that makes an image from a decoder's features."""


@runtime_checkable
class AnyDecoder(Protocol):
    """A decoder, of convolutions or of patches."""

    @property
    def last_layer(self) -> LastLayer: ...

    def features(self, z: Float[Array, "b h w z_channels"]) -> Float[Array, "b h2 w2 c"]:
        """The input of the last layer."""


@runtime_checkable
class AnyConfig(Protocol):
    """The part of a tokenizer's configuration that all its networks share."""

    @property
    def z_channels(self) -> int: ...

    @property
    def compute_dtype(self) -> DTypeLike: ...


class Autoencoder(nnx.Module, Generic[E]):
    """All of a tokenizer's networks: an encoder, a decoder, and a 1x1 convolution on either side of the codes."""

    def __init__(self, encoder: E, decoder: AnyDecoder, config: AnyConfig, dim: int, rngs: nnx.Rngs):
        self.encoder, self.decoder = encoder, decoder
        # latents in float32, so that codes don't hang on rounding
        self.quant_conv = conv(config.z_channels, dim, 1, rngs=rngs, dtype=jnp.float32)
        self.post_quant_conv = conv(dim, config.z_channels, 1, rngs=rngs, dtype=config.compute_dtype)

    @property
    def last_layer(self) -> LastLayer:
        """The layer that makes the image."""
        return self.decoder.last_layer

    def features(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b h2 w2 c"]:
        """The input of the decoder's last layer for a latent map."""
        return self.decoder.features(self.post_quant_conv(z))

    def image(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        """The image for a latent map, float32, not clamped."""
        return self.last_layer(self.features(z))
