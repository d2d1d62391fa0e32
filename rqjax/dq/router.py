"""The feature router: the features of all grains as one logit per grain and region (Huang et al. 2023, section 3.1)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import reduce
from flax import nnx
from jaxtyping import Array, Float

from rqjax.nets.init import torch_uniform

NAMES = {2: ("coarse", "fine"), 3: ("coarse", "median", "fine")}
"""The names of the grains in the published checkpoints, from coarse to fine."""
ACTIVATIONS = {"silu": jax.nn.silu, "relu": jax.nn.relu}


def linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A float32 linear layer, initialised as PyTorch does: a router's near-ties decide grains."""
    init = torch_uniform(inputs)
    return nnx.Linear(inputs, outputs, precision="highest", kernel_init=init, bias_init=init, rngs=rngs)


class FeatureRouter(nnx.Module):
    """Normalised features, averaged over each region and concatenated, through one or two linear layers; in float32.

    `groups` is the number of groups of each grain's normalisation, 0 for none; `layers` is 1 or 2.
    """

    def __init__(self, channels: int, grains: int, *, groups: int, layers: int, activation: str, rngs: nnx.Rngs):
        width = channels * grains
        self.grains, self.groups, self.activation = grains, groups, activation
        if groups:
            for name in NAMES[grains]:
                norm = nnx.GroupNorm(channels, groups, epsilon=1e-6, use_fast_variance=False, rngs=rngs)
                setattr(self, f"feature_norm_{name}", norm)
        hidden = [linear(width, width, rngs=rngs) for _ in range(layers - 1)]
        self.gate = nnx.List([*hidden, linear(width, grains, rngs=rngs)])

    def __call__(self, features: Sequence[Float[Array, "b _ _ channels"]]) -> Float[Array, "b h w grains"]:
        """Logits on the grid of the first, coarsest features."""
        size, pooled = features[0].shape[1], []
        for name, x in zip(NAMES[self.grains], features, strict=True):
            x = x.astype(jnp.float32)
            x = getattr(self, f"feature_norm_{name}")(x) if self.groups else x
            window = x.shape[1] // size
            pooled.append(reduce(x, "b (h r) (w s) c -> b h w c", "mean", r=window, s=window))
        x = jnp.concatenate(pooled, axis=-1)
        for layer in self.gate[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.gate[-1](x)
