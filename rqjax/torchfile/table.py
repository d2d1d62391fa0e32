"""One table of entries says where each tensor of a PyTorch state dict lives in our tree, and in what layout."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from types import EllipsisType
from typing import TypeVar

import numpy as np

from rqjax.store.arrays import check_fit, from_arrays, to_arrays

CONV = (2, 3, 1, 0)
"""Axes that take a convolution kernel OIHW to HWIO."""
LINEAR = (1, 0)
"""Axes that take a linear weight (out, in) to (in, out)."""
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
"""Our names of a layer's arrays and PyTorch's, in the order of a state dict."""
Shapes = Mapping[str, tuple[int, ...]]
StateDict = Mapping[str, np.ndarray]
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A bijection between (a part of) an official tensor and (a layer of) an array of ours.

    Ours is `official[rows].transpose(axes)`, reshaped: splitting or joining heads is that reshape.
    """

    key: str
    path: str
    shape: tuple[int, ...]  # of the whole official tensor
    axes: tuple[int, ...] | None = None
    layer: int | EllipsisType = ...  # index into the first axis of our array
    rows: int | slice | EllipsisType = ...  # index into the first axis of the official tensor that several arrays fill


def shapes_of(tree: object) -> dict[str, tuple[int, ...]]:
    """The shapes of a tree's arrays (or of shapes themselves) by path."""
    return {path: tuple(array.shape) for path, array in to_arrays(tree).items()}


def layer_entries(
    key: str, path: str, shapes: Shapes, layer: int | EllipsisType = ..., inputs: int = 1
) -> Iterator[Entry]:
    """The entries of a linear layer, convolution, normalisation or embedding: its weight, and its bias if it has one.

    A linear layer of ours may have its outputs or its inputs split by heads: the first `inputs` axes of its kernel are
    inputs. With `layer` its arrays at `path` hold all layers of a stack, this one among them.
    """
    found = {leaf: shapes[f"{path}/{leaf}"] for leaf in LEAVES if f"{path}/{leaf}" in shapes}
    if layer is not ...:
        found = {leaf: shape[1:] for leaf, shape in found.items()}
    for leaf, ours in found.items():
        shape, axes = ours, None
        if leaf == "kernel" and len(ours) == 4:
            shape, axes = tuple(ours[axis] for axis in np.argsort(CONV)), CONV
        elif leaf == "kernel":
            shape, axes = (math.prod(ours[inputs:]), math.prod(ours[:inputs])), LINEAR
        elif leaf == "bias":
            shape = (math.prod(ours),)
        yield Entry(f"{key}.{LEAVES[leaf]}", f"{path}/{leaf}", shape, axes, layer)


def import_arrays(entries: Iterable[Entry], state_dict: StateDict, like: Tree) -> Tree:
    """A tree like `like` (shapes are enough) of float32 arrays, from the official tensors.

    Raises InputError naming missing, unknown or misshapen keys, five at most. The keys must be exactly those of
    `entries`: callers drop keys that they know to be redundant first.
    """
    entries, shapes = list(entries), shapes_of(like)
    check_fit({entry.key: entry for entry in entries}, state_dict, "this state dict")
    arrays = {entry.path: np.empty(shapes[entry.path], np.float32) for entry in entries}
    for entry in entries:
        part, ours = np.asarray(state_dict[entry.key])[entry.rows], arrays[entry.path]
        part = part if entry.axes is None else part.transpose(entry.axes)
        ours[entry.layer] = part.reshape(ours[entry.layer].shape)
    return from_arrays(like, arrays)


def export_arrays(entries: Iterable[Entry], tree: object) -> dict[str, np.ndarray]:
    """The official tensors, in the order of `entries`, from the arrays of a tree: the inverse of import_arrays.

    Most are views on our arrays that are not contiguous: whoever writes them copies one at a time.
    """
    arrays, state_dict = to_arrays(tree), {}
    for entry in entries:
        ours = np.asarray(arrays[entry.path])[entry.layer]
        if entry.rows is not ...:
            state_dict.setdefault(entry.key, np.empty(entry.shape, ours.dtype))[entry.rows] = ours
        elif entry.axes is None:
            state_dict[entry.key] = ours.reshape(entry.shape)
        else:
            moved = tuple(entry.shape[axis] for axis in entry.axes)
            state_dict[entry.key] = ours.reshape(moved).transpose(np.argsort(entry.axes))
    return state_dict
