"""The real images that a model is measured on, and what a result says of them."""

import dataclasses

from jax.sharding import Mesh

from rqjax.data import DataConfig, HeldOut
from rqjax.errors import InputError
from rqjax.mesh import shards
from rqjax.run.config import Config


@dataclasses.dataclass(frozen=True)
class Images:
    """A split of a data set."""

    data: DataConfig
    split: str

    @classmethod
    def held_out(cls, config: Config, path: str = "", split: str = "") -> "Images":
        """Those that a run held out; or all of the folder `path`; or of either those of `split`.

        Raises InputError for a run that trained on all of its images, unless `split` says which.
        """
        if path:
            return cls.of_folder(config.data, path, split or "all")
        if not split and config.data.split in (config.eval_split, "all"):
            raise InputError(
                f"the run was trained on data.split={config.data.split}, which leaves no held-out images for"
                f" {config.eval_split}: give others as --data FOLDER, or choose --split"
            )
        return cls(config.data, split or config.eval_split)

    @classmethod
    def of_folder(cls, data: DataConfig, path: str, split: str) -> "Images":
        """Images of a folder, brought to the size that the run has."""
        resize = max(data.resize, data.size)
        return cls(dataclasses.replace(data, name="folder", path=path, dataset="", resize=resize), split)

    def batches(self, batch: int, mesh: Mesh, limit: int = 0) -> HeldOut:
        """All of them once, or those of the first `limit` batches. Raises InputError if they are not there."""
        parts = shards(mesh)
        return HeldOut(self.data, self.split, -(-batch // parts) * parts, mesh, limit)

    def about(self, count: int) -> dict[str, object]:
        """All that decides which images these are, and their number."""
        data = self.data
        named = {"folder": data.path, "tfds": data.dataset or data.path}
        return {
            "data": data.name,
            **({"path": named[data.name]} if data.name in named else {}),
            "split": self.split,
            **({"holdout": data.holdout} if data.name == "folder" else {}),
            "count": count,
            "size": data.size,
            "resize": data.resize,
            "filter": data.filter,
            "crop": "center",
        }
