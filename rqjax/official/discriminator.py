"""The official PatchGAN: its state dict as a discriminator of ours, both ways."""

from collections.abc import Iterator

import jax
import numpy as np

from rqjax.nets.discriminator import Discriminator
from rqjax.nets.init import Rngs
from rqjax.torchfile.table import Entry, StateDict, export_arrays, import_arrays, layer_entries, shapes_of

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def shapes(ndf: int, num_layers: int) -> Discriminator:
    """The shapes of a discriminator."""
    return jax.eval_shape(lambda: Discriminator(ndf, num_layers, rngs=Rngs(0)))


def entries(critic: Discriminator) -> Iterator[Entry]:
    """Where each tensor lives; the official layers are numbered through the activations, one in three."""
    ours, blocks = shapes_of(critic), len(critic.blocks)
    yield from layer_entries("main.0", "conv_in", ours)
    for i in range(blocks):
        yield from layer_entries(f"main.{3 * i + 2}", f"blocks/{i}/conv", ours)
        yield from layer_entries(f"main.{3 * i + 3}", f"blocks/{i}/norm", ours)
    yield from layer_entries(f"main.{3 * blocks + 2}", "conv_out", ours)


def from_torch(ndf: int, num_layers: int, state_dict: StateDict) -> Discriminator:
    """The discriminator that an official state dict holds; its running statistics are dropped, since ours has none.

    Raises InputError naming keys that are missing, unknown or of another shape.
    """
    like = shapes(ndf, num_layers)
    kept = {key: tensor for key, tensor in state_dict.items() if not key.endswith(RUNNING)}
    return import_arrays(entries(like), kept, like)


def to_torch(critic: Discriminator) -> dict[str, np.ndarray]:
    """The official state dict, running statistics as PyTorch initialises them: only evaluation would read those."""
    state_dict = {}
    for key, tensor in export_arrays(entries(critic), critic).items():
        state_dict[key] = tensor
        _, layer, name = key.split(".")
        if name == "bias" and layer != "0" and int(layer) % 3 == 0:
            fresh = (np.zeros_like(tensor), np.ones_like(tensor), np.zeros((), np.int64))
            state_dict |= {f"main.{layer}.{name}": value for name, value in zip(RUNNING, fresh, strict=True)}
    return state_dict
