"""Prepared sets of TensorFlow Datasets, read without TensorFlow."""

import pathlib
from typing import Any

from rqjax.data.sources import NoSplitError, Record
from rqjax.errors import InputError


class Prepared:
    """A split of a prepared TFDS data set in array_record format, read without TensorFlow, images still encoded.

    `path` is the folder that holds dataset_info.json, or a data_dir in which `dataset` is looked for (TFDS's default
    one if empty). Nothing is downloaded. A set without the feature "label" has label 0 throughout.
    """

    captioned = False

    def __init__(self, dataset: str, path: str, split: str):
        import tensorflow_datasets as tfds  # half a second, and of no use to the other sources

        builder = _builder(dataset, path)
        info, features = builder.info, builder.info.features
        self.title = f"{info.name}/{split}"
        self.left_out: dict[str, str] = {}
        if "array_record" not in {file_format.value for file_format in info.available_file_formats()}:
            raise InputError(
                f"{builder.data_dir} is prepared as {info.file_format.value}, expected array_record: {_HOW}"
            )
        if not hasattr(features, "keys") or "image" not in features:
            raise InputError(f"{info.name} has no feature called image: its features are {features}")
        try:
            self.records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        except (KeyError, ValueError) as error:
            splits = ", ".join(info.splits)
            raise NoSplitError(f"{info.name} has no split {split!r}: choose data.split from {splits}") from error
        if not len(self.records):
            raise NoSplitError(f"split {split!r} of {info.name} is empty: choose another data.split")
        self.has_label = "label" in features
        names = getattr(features["label"], "names", None) if self.has_label else [info.name]
        self.classes = tuple(names or ())

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        return {"image": record["image"], "label": int(record["label"]) if self.has_label else 0}

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"


_HOW = "prepare it with tfds.builder(name, data_dir=..., file_format='array_record').download_and_prepare()"


def _builder(dataset: str, path: str) -> Any:
    import tensorflow_datasets as tfds

    folder = pathlib.Path(path).expanduser()
    if path and (folder / "dataset_info.json").is_file():
        return tfds.builder_from_directory(folder)
    where = f"in {path}" if path else "in TFDS's default folder"
    if not dataset:
        raise InputError(f"no dataset_info.json {where}: give data.dataset, or the folder of a prepared version")
    if path and not folder.is_dir():
        raise InputError(f"data.path {path!r} is not a folder: {_HOW}")
    try:
        return tfds.core.read_only_builder.builder_from_files(dataset, data_dir=folder if path else None)
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(f"no prepared data set {dataset} {where}: {_HOW}") from error
