"""Images in batches of few sizes over all devices of a process: each program is compiled once for a size."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from tqdm.auto import tqdm

from rqjax.mesh import make_mesh, rows

T = TypeVar("T")
MOST = 64
"""Images computed at once, if nobody says another number."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """How images are computed: `most` at once, their rows spread over a mesh and each model whole on its devices."""

    mesh: Mesh
    most: int = MOST

    @classmethod
    def over(cls, devices: Sequence[jax.Device] | None = None, most: int = MOST) -> "Batches":
        """Over `devices`, or all of this process: each process of several computes all images by itself."""
        devices = jax.local_devices() if devices is None else devices
        return cls(make_mesh(f"{len(devices)}x1", devices), most)

    def everywhere(self, tree: T) -> T:
        """The arrays of a tree, whole on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def size(self, images: int) -> int:
        """Images computed at once when there are so many: a power of two or three quarters of one, so that few programs
        serve all numbers, but at most `most`; a multiple of the devices.
        """
        above = 1 << (images - 1).bit_length()
        fitting = above * 3 // 4 if above >= 4 and above * 3 // 4 >= images else above
        devices = self.mesh.size
        return -(-min(fitting, self.most) // devices) * devices

    def run(self, compute: Callable[..., T], *trees: PyTree[np.ndarray], progress: str = "") -> T:
        """`compute(*trees)` for trees of arrays [images ...], batch by batch; its arrays [images ...] as NumPy's.

        The last batch is filled up with copies of its last image. While a batch is computed, the one before it is
        fetched. `progress` names a bar, which terminals and notebooks show if there are several batches.
        """
        images = len(jax.tree.leaves(trees)[0])
        size, sharding = self.size(images), NamedSharding(self.mesh, rows(self.mesh))
        done, waiting = [], None
        shown = bool(progress) and images > size and jax.process_index() == 0
        with tqdm(total=images, desc=progress, leave=False, disable=None if shown else True) as bar:
            for i in range(0, images, size):
                parts = jax.device_put([_part(tree, i, size) for tree in trees], sharding)
                with jax.set_mesh(self.mesh):
                    started = compute(*parts)
                if waiting is not None:
                    done.append(jax.tree.map(np.asarray, waiting))
                    bar.update(size)
                waiting = started
            done.append(jax.tree.map(lambda x: np.asarray(x)[: images - size * len(done)], waiting))
        return jax.tree.map(lambda *x: np.concatenate(x), *done)


def _part(tree: PyTree[np.ndarray], start: int, size: int) -> PyTree[np.ndarray]:
    """Rows from `start` on, filled up to `size` with copies of the last."""

    def cut(x: np.ndarray) -> np.ndarray:
        part = np.asarray(x[start : start + size])
        return np.pad(part, [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1), mode="edge")

    return jax.tree.map(cut, tree)
