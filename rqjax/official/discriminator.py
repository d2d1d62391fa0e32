"""The official PatchGAN: its state dict as a discriminator of ours, both ways."""

from collections.abc import Iterator

import jax
import numpy as np

from rqjax.errors import InputError
from rqjax.nets.discriminator import Discriminator
from rqjax.nets.init import Rngs
from rqjax.torchfile.table import Entry, StateDict, export_arrays, import_arrays, layer_entries, shapes_of

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def shapes(ndf: int, num_layers: int) -> Discriminator:
    """The shapes of a discriminator."""
    return jax.eval_shape(lambda: Discriminator(ndf, num_layers, rngs=Rngs(0)))


def sizes(state_dict: StateDict) -> tuple[int, int]:
    """The `ndf` and `num_layers` that an official state dict's shapes say, whatever its configuration file does.

    Raises InputError if they are those of no discriminator.
    """
    kernels = [key for key, tensor in state_dict.items() if key.endswith(".weight") and tensor.ndim == 4]
    if "main.0.weight" not in kernels or len(kernels) < 3:
        found = ", ".join(kernels[:8]) or "none"
        raise InputError(f"the discriminator's convolutions are {found}: expected main.0.weight and at least 2 more")
    return state_dict["main.0.weight"].shape[0], len(kernels) - 2  # the first and the last are in no block


def entries(critic: Discriminator) -> Iterator[Entry]:
    """Where each tensor lives; the official layers are numbered through the activations, one in three."""
    ours, blocks = shapes_of(critic), len(critic.blocks)
    yield from layer_entries("main.0", "conv_in", ours)
    for i in range(blocks):
        yield from layer_entries(f"main.{3 * i + 2}", f"blocks/{i}/conv", ours)
        yield from layer_entries(f"main.{3 * i + 3}", f"blocks/{i}/norm", ours)
    yield from layer_entries(f"main.{3 * blocks + 2}", "conv_out", ours)


def from_torch(state_dict: StateDict) -> Discriminator:
    """The discriminator that an official state dict holds; its running statistics are dropped, since ours has none.

    Raises InputError naming keys that are missing, unknown or of another shape.
    """
    like = shapes(*sizes(state_dict))
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
