"""The real images that a model is measured on, and what a result says of them."""

import dataclasses

from jax.sharding import Mesh

from rqjax.data import DataConfig, HeldOut
from rqjax.data.config import OF_FILES
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
    def of_folder(cls, data: DataConfig, path: str, split: str, name: str = "folder") -> "Images":
        """Images of a folder, or of another of the sets that lie in files, brought to the size that the run has."""
        resize = max(data.resize, data.size)
        return cls(dataclasses.replace(data, name=name, path=path, dataset="", resize=resize), split)

    @classmethod
    def of_training(cls, config: Config, path: str, split: str) -> tuple["Images", "Images | None"]:
        """Those that a prior's images are compared with: the ones that it was trained on, as in papers, unless another
        folder or split is named. And those that its run held out beside them, if there are any. Raises InputError for a
        prior that was trained on latents, if no folder is named.
        """
        if path:
            return cls.of_folder(config.data, path, split or "all"), None
        if config.data.name == "latents":
            raise InputError("the prior was trained on latents, which are no images: give those as --data FOLDER")
        images = cls(config.data, split or config.data.split)
        apart = config.eval_split not in (images.split, config.data.split) and images.split != "all"
        return images, cls(config.data, config.eval_split) if apart else None

    def batches(self, batch: int, mesh: Mesh, limit: int = 0) -> HeldOut:
        """All of them once, or those of the first `limit` batches. Raises InputError if they are not there."""
        parts = shards(mesh)
        return HeldOut(self.data, self.split, -(-batch // parts) * parts, mesh, limit)

    def about(self, count: int) -> dict[str, object]:
        """All that decides which images these are, and their number."""
        data = self.data
        place = (data.dataset or data.path) if data.name == "tfds" else data.path
        return {
            "data": data.name,
            **({"path": place} if place else {}),
            "split": self.split,
            **({"holdout": data.holdout} if data.name in OF_FILES else {}),
            "count": count,
            "size": data.size,
            "resize": data.resize,
            "filter": data.filter,
            "crop": "center",
        }
