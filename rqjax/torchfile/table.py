"""One table of entries says where each tensor of a PyTorch state dict lives in our tree, and in what layout."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rqjax.store.arrays import check_fit

CONV = (2, 3, 1, 0)
"""Axes that take a convolution kernel OIHW to HWIO."""
LINEAR = (1, 0)
"""Axes that take a linear weight (out, in) to (in, out)."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A bijection between one official tensor and one array of ours, or one layer of one.

    Our array is `official.transpose(axes)` reshaped: splitting or joining heads is that reshape.
    """

    key: str
    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    layer: int | None = None


def linear(key: str, path: str, ours: tuple[int, ...], inputs: int, layer: int | None = None) -> Entry:
    """The entry of a linear weight whose array of ours, without any layer axis, has `inputs` input features."""
    return Entry(key, path, (math.prod(ours) // inputs, inputs), LINEAR, layer)


def conv(key: str, path: str, ours: tuple[int, ...]) -> Entry:
    """The entry of a convolution kernel that we hold as HWIO of shape `ours`."""
    height, width, inputs, outputs = ours
    return Entry(key, path, (outputs, inputs, height, width), CONV)


def import_arrays(
    entries: Iterable[Entry], state_dict: Mapping[str, Any], like: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Our arrays, by path, from the official tensors; `like` gives our shapes.

    Raises InputError naming missing, unknown or misshapen keys, five at most. The keys must be exactly those of
    `entries`: callers drop what they know to be redundant first.
    """
    entries = list(entries)
    check_fit({entry.key: entry for entry in entries}, state_dict, "this state dict")
    arrays: dict[str, np.ndarray] = {}
    for entry in entries:
        tensor = np.asarray(state_dict[entry.key])
        shape = tuple(like[entry.path].shape)
        ours = tensor if entry.axes is None else tensor.transpose(entry.axes)
        if entry.layer is None:
            arrays[entry.path] = np.ascontiguousarray(ours).reshape(shape)
        else:
            whole = arrays.setdefault(entry.path, np.empty(shape, tensor.dtype))
            whole[entry.layer] = ours.reshape(shape[1:])
    return arrays


def export_arrays(entries: Iterable[Entry], arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The official tensors, in the order of `entries`, from our arrays: the inverse of import_arrays.

    They are views on our arrays, of which most are not contiguous: whoever writes them copies one at a time.
    """
    state_dict = {}
    for entry in entries:
        ours = np.asarray(arrays[entry.path])
        ours = ours if entry.layer is None else ours[entry.layer]
        if entry.axes is None:
            state_dict[entry.key] = ours.reshape(entry.shape)
        else:
            moved = tuple(entry.shape[axis] for axis in entry.axes)
            state_dict[entry.key] = ours.reshape(moved).transpose(np.argsort(entry.axes))
    return state_dict
