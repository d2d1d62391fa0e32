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
    names = [name_of(path) for path, _ in leaves]
    problems = [f"missing {name}" for name in names if name not in arrays]
    problems += [f"unknown {name}" for name in arrays if name not in set(names)]
    problems += [
        f"{name} has shape {tuple(arrays[name].shape)}, expected {tuple(leaf.shape)}"
        for name, (_, leaf) in zip(names, leaves, strict=True)
        if name in arrays and tuple(arrays[name].shape) != tuple(leaf.shape)
    ]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise InputError(f"these arrays do not fit the model: {'; '.join(problems[:5])}{more}")
    return jax.tree.unflatten(structure, [arrays[name] for name in names])
