"""A tree of modules and dataclasses as a flat dictionary of named arrays, and back."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax.errors import InputError, some_of
from rqjax.mesh import name_of

T = TypeVar("T")
Shapes = dict[str, jax.ShapeDtypeStruct]


@runtime_checkable
class Shaped(Protocol):
    """An array, or anything else with a shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an array is stored: under a name, all of what is there or one row of it."""

    name: str
    row: int | None = None


Places = Callable[[Collection[str], Collection[str]], dict[str, Place]]
"""The place of every array that is wanted, given the names of those and of all that are stored."""


def same_names(wanted: Collection[str], stored: Collection[str]) -> dict[str, Place]:
    """Every array under its own name."""
    return {name: Place(name) for name in wanted}


def to_arrays(tree: object) -> dict[str, Any]:
    """Every leaf of `tree` (arrays, shapes, ...) under its readable name, as in `network/encoder/conv_in/kernel`."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def from_arrays(like: T, arrays: Mapping[str, Shaped]) -> T:
    """A tree of the structure of `like` (arrays or shapes) holding `arrays`.

    Leaves are matched by name and checked by shape: `nnx.merge` would match them by order.
    Raises InputError that names what is missing, what is unknown and whose shape differs.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {name_of(path): leaf for path, leaf in leaves}
    check_fit(expected, arrays, "this set of arrays")
    return jax.tree.unflatten(structure, [arrays[name] for name in expected])


def stored_shapes(wanted: Mapping[str, jax.ShapeDtypeStruct], places: Mapping[str, Place]) -> Shapes:
    """The arrays, by their stored names, that `wanted` are taken from; places on a mesh stay those of the rows."""
    shapes: Shapes = {}
    for name, place in places.items():
        like = wanted[name]
        shape, sharding = tuple(like.shape), like.sharding
        if place.row is not None:
            rows = sum(other.name == place.name for other in places.values())
            shape = (rows, *shape)
            if isinstance(sharding, NamedSharding):
                sharding = NamedSharding(sharding.mesh, P(None, *sharding.spec))
        shapes[place.name] = jax.ShapeDtypeStruct(shape, like.dtype, sharding=sharding)
    return shapes


def check_fit(expected: Mapping[str, Shaped], stored: Mapping[str, Shaped], where: str) -> None:
    """Raises InputError, naming five problems at most, unless `stored` has the names and shapes of `expected`."""
    problems = [f"missing {name}" for name in expected if name not in stored]
    problems += [f"unknown {name}" for name in stored if name not in expected]
    problems += [
        f"{name} has shape {tuple(stored[name].shape)}, expected {tuple(leaf.shape)}"
        for name, leaf in expected.items()
        if name in stored and tuple(stored[name].shape) != tuple(leaf.shape)
    ]
    if problems:
        raise InputError(f"{where} does not fit: {some_of(problems, 5)}")
