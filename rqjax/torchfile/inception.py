"""FID's Inception from the file that pytorch-fid and torch-fidelity share."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rqjax.nets.inception import MIXED, STEM, Inception, shapes
from rqjax.torchfile import published
from rqjax.torchfile.inception_graph import EPSILON, copies, state_dict_of_graph
from rqjax.torchfile.table import Entry, StateDict, import_arrays, layer_entries, shapes_of

INCEPTION_SHA256 = "6726825d"
REMEDY = "download pt_inception-2015-12-05-6726825d.pth from the releases of github.com/mseitzer/pytorch-fid"
NORM = ("weight", "bias", "running_mean", "running_var")


def entries() -> list[Entry]:
    """The table: the published names of convolutions, as they are after `folded`, and of the last layer."""
    ours, table = shapes_of(shapes()), []
    for i, name in enumerate(STEM):
        table += layer_entries(f"Conv2d_{name}", f"stem/{i}/convs/0", ours)
    for i, (block, branches) in enumerate(MIXED.items()):
        for j, branch in enumerate(branches):
            for k, name in enumerate(copies(f"Mixed_{block}", branch)):
                table += layer_entries(name, f"blocks/{i}/{j}/convs/{k}", ours)
    return [*table, *layer_entries("fc", "head", ours)]


def folded(state_dict: StateDict) -> dict[str, np.ndarray]:
    """Batch normalisation as it is after training, folded into the weights and a bias of each convolution.

    Computed in float64. What a convolution lacks for that is left as it is, for the table to name.
    """
    found = {key: value for key, value in state_dict.items() if not key.endswith(".num_batches_tracked")}
    for key in [key for key in found if key.endswith(".conv.weight")]:
        name = key.removesuffix(".conv.weight")
        norms = [f"{name}.bn.{leaf}" for leaf in NORM]
        if all(norm in found for norm in norms):
            scale, bias, mean, variance = (found.pop(norm).astype(np.float64) for norm in norms)
            scale = scale / np.sqrt(variance + EPSILON)
            found[f"{name}.weight"] = (found.pop(key) * scale[:, None, None, None]).astype(np.float32)
            found[f"{name}.bias"] = (bias - mean * scale).astype(np.float32)
    return found


def from_torch(state_dict: StateDict, dtype: DTypeLike = jnp.float32) -> Inception:
    """Inception from pytorch-fid's state dict. Raises InputError naming keys that are missing, unknown or misshapen."""
    return import_arrays(entries(), folded(state_dict), shapes(dtype))


def load_inception(path: str, *, dtype: DTypeLike = jnp.float32, verify: bool = True) -> Inception:
    """Inception from pytorch-fid's file, whose SHA-256 `verify` compares with that of the published one; or from the
    graph that TensorFlow published (.pb), which is known by its names and shapes alone.

    Raises InputError if the file is missing, is another, or lacks an array.
    """
    published.check_there("inception_path", path, REMEDY)
    if path.endswith(".pb"):
        return from_torch(state_dict_of_graph(path), dtype)
    return from_torch(published.read(path, INCEPTION_SHA256, REMEDY, verify=verify), dtype)
