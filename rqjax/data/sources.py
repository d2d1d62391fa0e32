"""Where images come from: random access by index to an encoded image or its pixels, and a label."""

import dataclasses
import hashlib
import importlib.resources
import os
import pathlib
from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from rqjax.data.synsets import readable
from rqjax.data.walk import EXTENSIONS, image_files
from rqjax.errors import InputError
from rqjax.files import read_regular

SPLITS = ("train", "test", "validation", "all")
HELD_OUT = {"test": ("test", "val", "validation"), "validation": ("val", "validation", "test")}
_ONE_CLASS = "images"
FASHION_MNIST = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILE_BYTES = 2**29
"""The largest image file, enough for the pixels of any that is decoded."""
Record = dict[str, Any]
"""An example: fields by name."""


class NoSplitError(InputError):
    """A split that a data set does not have, or that is empty."""


@runtime_checkable
class Source(Protocol):
    """A data set: `source[i]` is {"image": bytes or uint8 [h w], [h w 1] or [h w 3], "label": int}, and where
    `captioned` says so "caption": str.
    """

    classes: tuple[str, ...]
    captioned: bool
    left_out: dict[str, str]  # names of what lies there and is not read: the reason

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def name(self, index: int) -> str:
        """The name of example `index` in messages: a file's path, a record's number."""


@dataclasses.dataclass
class Arrays:
    """Images and labels held in memory."""

    image: UInt8[np.ndarray, "n h w"] | UInt8[np.ndarray, "n h w c"]
    label: Int[np.ndarray, "n"]
    classes: tuple[str, ...]
    title: str
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    captioned: bool = False

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Record:
        return {"image": self.image[index], "label": int(self.label[index])}

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"


def fashion_mnist(split: str) -> Arrays:
    """The 10 000 embedded images, 28x28: 900 of each class to train on, the last 100 of each class held out.

    `split` "train" is the former, "all" is both, any other the latter.
    """
    path = importlib.resources.files("rqjax") / "assets" / "fashion_mnist.npz"
    with importlib.resources.as_file(path) as file, np.load(file) as data:
        image, label = data["image"], data["label"].astype(np.int32)
    rank = np.zeros(len(label), np.int32)  # the place of each image within its class
    for k in range(len(FASHION_MNIST)):
        rank[label == k] = np.arange(np.sum(label == k))
    chosen = rank >= 0 if split == "all" else (rank < 900) == (split == "train")
    return Arrays(image[chosen], label[chosen], FASHION_MNIST, f"fashion_mnist/{split}")


class Synthetic:
    """Images drawn from their index: four by four blocks in the colours of their class, with noise of their own."""

    captioned = False

    def __init__(self, count: int, classes: int, size: int, split: str):
        self.count, self.size, self.split = count, size, split
        self.left_out: dict[str, str] = {}
        self.classes = tuple(str(k) for k in range(classes))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        label = index % len(self.classes)
        pattern = np.random.default_rng([0, label]).integers(32, 224, (4, 4, 3))
        noise = np.random.default_rng([1, self.split != "train", index]).integers(-32, 33, (4, 4, 3))
        blocks = Image.fromarray((pattern + noise).astype(np.uint8))
        return {"image": np.asarray(blocks.resize((self.size, self.size), Image.Resampling.NEAREST)), "label": label}

    def name(self, index: int) -> str:
        return f"synthetic/{self.split}[{index}]"


class Folder:
    """The image files of a folder, sorted: directly inside (label 0), or in one sub-folder per class.

    `split` picks the sub-folder train, val, validation or test where `path` holds nothing but such ones. With no
    second one, about a share `holdout` of the files is held out: those whose path has a small hash, whichever other
    files there are. The classes are always those of the training images. Sub-folders of a class folder are searched
    too, hidden ones are not; links are followed, and no folder is read twice. `left_out` names what looks like an image
    and is none that can be read. Raises InputError for a missing or empty folder, and for images beside class folders.
    With `synsets`, class folders that are called by WordNet ids have readable names (rqjax.data.synsets).
    """

    captioned = False

    def __init__(self, path: str, split: str, holdout: float, synsets: bool = False):
        top = pathlib.Path(path).expanduser()
        if not top.is_dir():
            raise InputError(f"data.path {path!r} is not a folder: give a folder of images, or of class folders")
        folders = _split_folders(top)
        chosen = _chosen(top, folders, split)
        inside = {folder: image_files(top / folder) for folder in dict.fromkeys([folders[0], *chosen])}
        self.classes = _classes(top / folders[0], *inside[folders[0]])
        self.left_out = {path: reason for folder in chosen for path, reason in inside[folder][1].items()}
        found = [(top / folder, file) for folder in chosen for file in inside[folder][0]]
        if len(folders) == 1 and split != "all":
            found = [(root, file) for root, file in found if held_out(file, holdout) == (split != "train")]
        if not found:
            expected = f"files that end in {' '.join(EXTENSIONS)}"
            other = f", or another data.holdout than {holdout}" if len(folders) == 1 else ""
            raise NoSplitError(f"{top} has no images for split {split!r}: expected {expected}{other}")
        self.paths = [str(root / file) for root, file in found]
        self.labels = _labels([file for _, file in found], self.classes, top)
        self.classes = readable(self.classes, top) if synsets else self.classes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        return {"image": read_regular(self.paths[index], FILE_BYTES), "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return self.paths[index]


def _split_folders(top: pathlib.Path) -> list[str]:
    """The sub-folders that are splits, train first; [""] if the folder is not laid out in splits."""
    inside = {name for name in os.listdir(top) if not name.startswith(".") and os.path.isdir(top / name)}
    # a data set may have a class called "train": only other splits beside it make it a split
    if "train" in inside and inside <= {"train", *HELD_OUT["test"]}:
        return ["train", *sorted(inside - {"train"})]
    return [""]


def _chosen(top: pathlib.Path, folders: list[str], split: str) -> list[str]:
    if split == "all" or folders == [""]:
        return folders
    if split == "train" or len(folders) == 1:
        return ["train"]
    name = next((name for name in HELD_OUT[split] if name in folders), None)
    if name is None:
        raise NoSplitError(f"{top} has no folder for split {split!r}: make {top / 'val'}")
    return [name]


def _classes(root: pathlib.Path, files: list[str], left_out: Collection[str]) -> tuple[str, ...]:
    folders = sorted({file.split("/")[0] for file in files if "/" in file})
    loose = next((file for file in files if "/" not in file), None)
    if folders and loose is not None:
        raise InputError(f"{root} holds images ({loose}) and class folders ({folders[0]}): move the images into one")
    inside = {name for name in os.listdir(root) if not name.startswith((".", "__")) and os.path.isdir(root / name)}
    inside -= {name for name in inside if os.path.islink(root / name) and str(root / name) in left_out}
    if folders and (empty := sorted(inside - set(folders))):
        raise InputError(f"{root} has class folders without images: {', '.join(empty)}: fill them, or take them away")
    return tuple(folders) or (_ONE_CLASS,)


def _labels(files: list[str], classes: tuple[str, ...], top: pathlib.Path) -> np.ndarray:
    names = [file.split("/")[0] if "/" in file else _ONE_CLASS for file in files]
    if unknown := sorted(set(names) - set(classes)):
        raise InputError(f"{top} holds out classes {unknown}, trains on {list(classes)}: both need the same folders")
    index = {name: k for k, name in enumerate(classes)}
    return np.array([index[name] for name in names], np.int32)


def held_out(file: str, share: float) -> bool:
    """Whether a file belongs to the share that is held out: by its path alone, whichever others there are."""
    digest = hashlib.blake2b(file.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
