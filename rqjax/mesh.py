"""Where arrays live: the device mesh, and the rules that place every array on it.

The axes are "data" (rows of a batch; parameters and optimizer state are split over it as well, FSDP) and "model"
(tensor parallelism). A mesh over several slices has "replica" in front: each slice holds the whole state, and only
gradients cross the network between them.
"""

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath
from jaxtyping import PyTree

from rqjax.errors import InputError

Shaped = jax.Array | jax.ShapeDtypeStruct
AXES = ("replica", "data", "model")

TENSOR_PARALLEL = (
    (r"blocks/(cross_)?(query|key|value)/kernel$", -2),
    (r"blocks/(cross_)?(query|key|value)/bias$", -2),
    (r"blocks/(cross_)?proj/kernel$", -3),
    (r"blocks/up/(kernel|bias)$", -1),
    (r"blocks/down/kernel$", -2),
    (r"(classifier|content_head)/(kernel|bias)$", -1),
)
"""Which dimension of a transformer's arrays the model axis splits: attention heads, the MLP's features, the
vocabulary. The same names occur below the optimizer's moments and the averaged weights."""

CODEBOOK = r"(codebooks?(/\d+)?|quantizer(/codebooks/\d+)?)/(embed|count|total)$"
LAYERS = r"blocks/"
"""Arrays of a stack: their first axis is the layer, which a scan walks along and nothing may split."""

MIN_SIZE = 2**16
"""Elements below which an array stays whole on every device: gathering it would cost more than it saves."""
GATHERED = 2**30
"""Bytes of one layer's weights, gathered, above which `auto` splits them over a model axis too."""


def make_mesh(shape: str = "", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `shape` describes over `devices` (all by default).

    `shape` is "DATAxMODEL", as in "16x2", "REPLICASxDATAxMODEL", or "" for all devices of a slice along data and
    slices along replica. Raises InputError for one that does not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    sizes = _sizes(shape) if shape else (slices, len(devices) // slices, 1)
    if math.prod(sizes) != len(devices):
        raise InputError(f"mesh is {shape!r}, {math.prod(sizes)} devices: there are {len(devices)}")
    if sizes[0] % slices:
        raise InputError(f"mesh is {shape!r}: {slices} slices need as many replicas, or a multiple of them")
    kinds = (AxisType.Auto,) * 3
    if slices > 1:
        inside = (sizes[0] // slices, *sizes[1:])
        return Mesh(mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices), AXES, axis_types=kinds)
    if sizes[0] == 1:
        return jax.make_mesh(sizes[1:], AXES[1:], kinds[1:], devices=devices)
    return jax.make_mesh(sizes, AXES, kinds, devices=devices)


def _sizes(shape: str) -> tuple[int, int, int]:
    words = shape.split("x")
    if len(words) not in (2, 3) or not all(word.isdigit() and int(word) for word in words):
        raise InputError(f'mesh is {shape!r}: expected "auto", "DATAxMODEL" as in "16x2", or "REPLICASxDATAxMODEL"')
    replicas, data, model = (1, *map(int, words))[-3:]
    return replicas, data, model


def auto_shape(devices: Sequence[jax.Device], rows: int, state: PyTree) -> str:
    """The mesh for `rows` images that are computed together and for a state of these shapes.

    All devices of a slice along data, as long as each has a row and the gathered weights of one layer stay below 1 GiB;
    beyond that, the smallest model axis that brings both about. Raises InputError if there is none.
    """
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    each = len(devices) // slices
    heads = {x.shape[-2] for name, x in _named(state) if name.endswith("blocks/query/kernel")}
    most = each if heads else 1  # without heads only data parallelism serves
    for model in range(1, most + 1):
        fits = all(whole % model == 0 for whole in (each, *heads)) and rows % (slices * each // model) == 0
        if fits and _largest_layer(state) <= GATHERED * model:
            return f"{slices}x{each // model}x{model}"
    whole, data = slices * each, math.gcd(rows, each)
    near = " or ".join(str(n) for n in (rows // whole * whole, (rows // whole + 1) * whole) if n)
    other = (
        f", as {data}x{each // data}, which gives {each // data} devices the same work" if data > 1 == slices else ""
    )
    raise InputError(
        f"no mesh of {len(devices)} devices splits {rows} rows: choose data.batch (and stage.accumulate) so that"
        f" a microbatch is a multiple of {whole}, as {near}, or a mesh{'' if heads else other}"
    )


def _largest_layer(state: PyTree) -> int:
    """Bytes of the weights of the largest layer of any stack, as they are stored."""
    sizes = {}
    for name, x in _named(state):
        if LAYERS in name:
            stack = name.partition(LAYERS)[0]
            sizes[stack] = sizes.get(stack, 0) + x.size // x.shape[0] * x.dtype.itemsize
    return max(sizes.values(), default=0)


def _named(state: PyTree) -> list[tuple[str, Shaped]]:
    return [(name_of(path), x) for path, x in jax.tree_util.tree_leaves_with_path(state)]


def name_of(path: KeyPath) -> str:
    """A leaf's name, as in `network/encoder/conv_in/kernel`: its path without the boxes flax puts around arrays."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def shard_state(state: PyTree, mesh: Mesh, split_codebooks: bool = False, min_size: int = MIN_SIZE) -> PyTree:
    """A NamedSharding for every leaf of `state`.

    The model axis splits what TENSOR_PARALLEL names; the data axis the largest other dimension that it divides (FSDP),
    of arrays of `min_size` elements or more. Codebooks are whole on every device, or with `split_codebooks` the codes
    of such an array are split over data. Raises InputError if the model axis does not divide a layer's heads or
    features.
    """

    data = mesh.shape["data"]

    def place(path: KeyPath, x: Shaped) -> NamedSharding:
        name = name_of(path)
        axes: list[str | None] = [None] * x.ndim
        large = data > 1 and x.size >= min_size
        if re.search(CODEBOOK, name):
            if split_codebooks and large and x.shape[0] % data == 0:
                axes[0] = "data"
        else:
            if (axis := _tensor_axis(name, x, mesh.shape["model"])) is not None:
                axes[axis] = "model"
            if large and (axis := _fsdp_axis(name, x, data, axes)) is not None:
                axes[axis] = "data"
        return NamedSharding(mesh, P(*axes) if any(axes) else P())

    return jax.tree_util.tree_map_with_path(place, state)


def _tensor_axis(name: str, x: Shaped, n: int) -> int | None:
    axis = next((axis for pattern, axis in TENSOR_PARALLEL if re.search(pattern, name)), None)
    if axis is None or n == 1:
        return None
    if x.shape[axis] % n == 0:
        return axis
    if LAYERS in name:
        raise InputError(f"{n} devices on the mesh's model axis do not divide {name} of shape {x.shape}")
    return None  # a vocabulary with odd special codes stays whole


def _fsdp_axis(name: str, x: Shaped, n: int, axes: Sequence[str | None]) -> int | None:
    first = 1 if LAYERS in name else 0
    free = [i for i in np.argsort(x.shape)[::-1] if i >= first and axes[i] is None and x.shape[i] % n == 0]
    return int(free[0]) if free else None


def rows(mesh: Mesh | AbstractMesh) -> P:
    """How the first dimension of a batch lies on a mesh."""
    return P(("replica", "data") if "replica" in mesh.axis_names else "data")


def shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a mesh, or the one in force, splits a batch; 1 for none."""
    return math.prod(mesh.shape.get(axis, 1) for axis in ("replica", "data"))


def platform() -> str:
    """The platform of the computation, "cpu", "gpu" or "tpu": that of the mesh in force, or else JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to mesh axes inside a mesh; outside one (tests, notebooks) does nothing.

    "data" stands for all axes that rows are split over.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    by_rows = rows(mesh)[0]
    return jax.lax.with_sharding_constraint(x, P(*(by_rows if axis == "data" else axis for axis in axes)))


def with_sharding(abstract: PyTree, sharding: PyTree) -> PyTree:
    """Shapes and dtypes that also say where they live: what orbax and ahead-of-time compilation ask for.

    `sharding` is one for each leaf, or one for all leaves of a subtree.
    """
    places = jax.tree.broadcast(sharding, abstract)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, places)
