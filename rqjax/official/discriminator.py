"""Where each tensor of the official PatchGAN state dict lives in ours."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from rqjax.nets.discriminator import Discriminator
from rqjax.store.arrays import from_arrays, to_arrays
from rqjax.torchfile.table import Entry, conv, export_arrays, import_arrays

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def entries(ndf: int, num_layers: int) -> list[Entry]:
    """The table of a discriminator; the official layers are numbered through activations, every third one counts."""
    ours = to_arrays(_abstract(ndf, num_layers))

    def pair(official: str, path: str, bias: bool) -> list[Entry]:
        kernel = conv(f"{official}.weight", f"{path}/kernel", ours[f"{path}/kernel"].shape)
        return [kernel, Entry(f"{official}.bias", f"{path}/bias", ours[f"{path}/bias"].shape)] if bias else [kernel]

    table = pair("main.0", "conv_in", bias=True)
    for i in range(num_layers):
        path = f"blocks/{i}"
        table += pair(f"main.{3 * i + 2}", f"{path}/conv", bias=False)
        for theirs, name in (("weight", "scale"), ("bias", "bias")):
            table.append(Entry(f"main.{3 * i + 3}.{theirs}", f"{path}/norm/{name}", ours[f"{path}/norm/{name}"].shape))
    return table + pair(f"main.{3 * num_layers + 2}", "conv_out", bias=True)


def from_torch(ndf: int, num_layers: int, state_dict: Mapping[str, Any]) -> Discriminator:
    """The discriminator that an official state dict holds; its running statistics are dropped, since ours has none.

    Raises InputError naming keys that are missing, unknown or of another shape.
    """
    like = _abstract(ndf, num_layers)
    kept = {key: tensor for key, tensor in state_dict.items() if not key.endswith(RUNNING)}
    return from_arrays(like, import_arrays(entries(ndf, num_layers), kept, to_arrays(like)))


def to_torch(ndf: int, num_layers: int, discriminator: Discriminator) -> dict[str, np.ndarray]:
    """The official state dict, running statistics as PyTorch initialises them: only evaluation would read those."""
    tensors = export_arrays(entries(ndf, num_layers), to_arrays(discriminator))
    state_dict = {}
    for key, tensor in tensors.items():
        state_dict[key] = tensor
        layer = int(key.split(".")[1])
        if key.endswith(".bias") and layer % 3 == 0 and layer > 0:
            fresh = (np.zeros_like(tensor), np.ones_like(tensor), np.zeros((), np.int64))
            state_dict |= {f"main.{layer}.{name}": value for name, value in zip(RUNNING, fresh, strict=True)}
    return state_dict


def _abstract(ndf: int, num_layers: int) -> Discriminator:
    return jax.eval_shape(lambda: Discriminator(ndf, num_layers, rngs=nnx.Rngs(0)))
