"""LPIPS from torchvision's VGG16 file and the lin layers, which ship with this package."""

import pathlib

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rqjax.nets.lpips import LPIPS, REMEDY, VGG16, shapes
from rqjax.torchfile import published
from rqjax.torchfile.table import Entry, StateDict, import_arrays, layer_entries, shapes_of

# The lin layers of LPIPS v0.1 for VGG16 (github.com/richzhang/PerceptualSimilarity, BSD-2-Clause).
LIN = pathlib.Path(__file__).parent.parent / "assets" / "lpips_lin.npz"
VGG16_SHA256 = "397923af"


def entries() -> list[Entry]:
    """The table: torchvision's VGG16 `features.*`, and the lin layers as LPIPS names them."""
    ours = shapes_of(shapes())
    table, layer, i = [], 0, 0
    for j, group in enumerate(VGG16):
        for _ in group:
            table += layer_entries(f"features.{layer}", f"convs/{i}", ours)
            layer, i = layer + 2, i + 1  # a convolution and its ReLU
        layer += 1  # the pooling
        table.append(Entry(f"lin{j}.model.1.weight", f"lins/{j}", (1, group[-1], 1, 1)))
    return table


def from_torch(vgg16: StateDict, lin: StateDict, dtype: DTypeLike = jnp.float32) -> LPIPS:
    """LPIPS from two state dicts: torchvision's VGG16 (its classifier is ignored), and `lin{0..4}.model.1.weight`.

    Raises InputError naming keys that are missing, unknown or of another shape.
    """
    features = {key: tensor for key, tensor in vgg16.items() if not key.startswith("classifier.")}
    return import_arrays(entries(), {**features, **lin}, shapes(dtype))


def shipped_lin() -> dict[str, np.ndarray]:
    """The lin layers that ship with this package, under their official keys."""
    with np.load(LIN) as data:
        return {f"{name}.model.1.weight": data[name].reshape(1, -1, 1, 1) for name in data.files}


def check_there(vgg16_path: str) -> None:
    """Raises InputError if there is no such file."""
    published.check_there("vgg16_path", vgg16_path, REMEDY)


def load_lpips(vgg16_path: str, *, dtype: DTypeLike = jnp.float32, verify: bool = True) -> LPIPS:
    """LPIPS from torchvision's VGG16 file, and from the lin layers that ship.

    `verify` compares the file's SHA-256 with that of the published one. Raises InputError if it is missing or another.
    """
    check_there(vgg16_path)
    return from_torch(published.read(vgg16_path, VGG16_SHA256, REMEDY, verify=verify), shipped_lin(), dtype)
