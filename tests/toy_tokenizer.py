"""A tokenizer of two convolutions, for tests of what any tokenizer is trained by."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rqjax.interface import Forward


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.conv_in = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.conv_out = nnx.Conv(8, 3, (3, 3), rngs=rngs)

    def features(self, z):
        return jax.nn.silu(self.conv_in(jnp.repeat(jnp.repeat(z, 2, 1), 2, 2)))


class Network(nnx.Module):
    def __init__(self, rngs):
        self.encoder = nnx.Conv(3, 4, (2, 2), 2, rngs=rngs)
        self.decoder = Decoder(rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Toy:
    """A tokenizer that is as small as interface.Tokenizer allows."""

    network: Network
    quantizer: Any  # here the number of forward passes in training

    trained = property(lambda self: self.network)
    last_layer = property(lambda self: self.network.decoder.conv_out)
    levels = property(lambda self: 1)
    code_sizes = property(lambda self: np.full((1, 8, 8, 4), 100))

    def with_trained(self, trained):
        return dataclasses.replace(self, network=trained)

    def with_quantizer(self, quantizer):
        return dataclasses.replace(self, quantizer=quantizer)

    def train_forward(self, image, key):
        z = self.network.encoder(image) + 0.01 * jax.random.normal(key, (4,))
        features = self.network.decoder.features(z)
        loss = 0.25 * jnp.mean(z**2)
        metrics = {"commitment": loss / 0.25}
        return Forward(self.last_layer(features), features, loss, self.quantizer + 1, metrics)

    def encode(self, image):
        return jnp.int32(jnp.round(8 * self.network.encoder(image)))

    def latents(self, image, *, vectors):
        return self.network.encoder(image).astype(jnp.bfloat16) if vectors else self.encode(image)

    def codes_of(self, batch):
        return batch["latent"] if "latent" in batch else self.encode(batch["image"])

    def keep_first(self, codes, rows, levels):
        return jnp.where(jnp.arange(codes.shape[1])[:, None, None] < rows, codes, -1)

    def vectors(self, codes):
        return codes / 8

    def decode_vectors(self, vectors):
        return self.last_layer(self.network.decoder.features(vectors))

    def decode_codes(self, codes):
        return self.decode_vectors(self.vectors(codes))

    def reconstruct(self, image):
        return self.decode_codes(self.encode(image))

    def progressive(self, image):
        return self.reconstruct(image)[None]

    rates = ()

    def at_rates(self, image, counts):
        return jnp.zeros((0, *image.shape)), {}

    def perturbed(self, codes, keys, share, among):
        return codes

    def code_maps(self, image, codes):
        return {}

    def code_hits(self, codes, counts):
        return {}

    def code_counts(self, codes):
        return {}


@dataclasses.dataclass(kw_only=True)
class ToyConfig:
    resolution: int = 16
    remat: bool = False

    def check(self):
        pass

    def init(self, key):
        return Toy(Network(nnx.Rngs(key)), jnp.zeros(()))
