"""Where arrays live: the device mesh, and the one rule that places every array on it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax.errors import InputError

Rules = Sequence[tuple[str, P]]


def make_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, model) mesh over `devices` (all by default); `model` of them share each weight matrix.

    Raises InputError if `model` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if model < 1 or len(devices) % model:
        raise InputError(f"model_parallel={model} does not divide the {len(devices)} devices: choose a divisor")
    return jax.make_mesh((len(devices) // model, model), ("data", "model"), (AxisType.Auto,) * 2, devices=devices)


def name_of(path: tuple[Any, ...]) -> str:
    """A leaf's name, as in `network/encoder/conv_in/kernel`: its path without the boxes flax puts around arrays."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value")


def shard_state(state: Any, mesh: Mesh, rules: Rules = (), min_size: int = 2**16) -> Any:
    """A NamedSharding for every leaf of `state`: the first rule whose pattern is found in its name, else FSDP.

    FSDP splits the largest dimension that the data axis divides; arrays below `min_size` elements stay whole.
    """

    def place(path: tuple[Any, ...], x: Any) -> NamedSharding:
        spec = next((spec for pattern, spec in rules if re.search(pattern, name_of(path))), None)
        return NamedSharding(mesh, _fsdp(x, mesh.shape["data"], min_size) if spec is None else spec)

    return jax.tree_util.tree_map_with_path(place, state)


def _fsdp(x: Any, n: int, min_size: int) -> P:
    if x.size < min_size or n == 1:
        return P()
    best = next((i for i in np.argsort(x.shape)[::-1] if x.shape[i] % n == 0), None)
    return P(*("data" if i == best else None for i in range(x.ndim)))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to mesh axes inside a mesh; outside one (tests, notebooks) does nothing."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, P(*axes))


def with_sharding(abstract: Any, sharding: Any) -> Any:
    """Shapes and dtypes that also say where they live: what orbax and ahead-of-time compilation ask for."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, sharding)
