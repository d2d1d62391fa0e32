"""A tree of modules and dataclasses as a flat dictionary of named arrays, and back."""

from collections.abc import Mapping
from typing import Any

import jax

from rqjax.errors import InputError
from rqjax.mesh import name_of


def to_arrays(tree: Any) -> dict[str, Any]:
    """Every leaf of `tree` under its readable name, as in `network/encoder/conv_in/kernel`."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def from_arrays(like: Any, arrays: Mapping[str, Any]) -> Any:
    """A tree of the structure of `like` (arrays or shapes) holding `arrays`.

    Leaves are matched by name and checked by shape: `nnx.merge` would match them by order.
    Raises InputError that names what is missing, what is unknown and whose shape differs.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {name_of(path): leaf for path, leaf in leaves}
    check_fit(expected, arrays, "this set of arrays")
    return jax.tree.unflatten(structure, [arrays[name] for name in expected])


def check_fit(expected: Mapping[str, Any], found: Mapping[str, Any], what: str) -> None:
    """Raises InputError, naming five problems at most, unless `found` has the names and shapes of `expected`."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unknown {name}" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(leaf.shape)}"
        for name, leaf in expected.items()
        if name in found and tuple(found[name].shape) != tuple(leaf.shape)
    ]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise InputError(f"{what} does not fit: {'; '.join(problems[:5])}{more}")
