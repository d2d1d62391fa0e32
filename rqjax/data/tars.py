"""WebDataset's tar files, read by index: the members of a tar whose names differ in their endings are one example."""

import concurrent.futures
import dataclasses
import os
import pathlib
import posixpath
import stat
import tarfile

import numpy as np

from rqjax.data.sources import FILE_BYTES, HELD_OUT, NoSplitError, Record, held_out
from rqjax.data.walk import EXTENSIONS
from rqjax.errors import InputError, some_of

CAPTIONS, LABELS = (".txt", ".caption"), (".cls",)
_SMALL = 2**20
"""The largest file of a label or a caption."""
_THREADS = 16
_SPLITS = ("train", "val", "validation", "test")
Place = tuple[int, int]
"""The first byte of a member and their number."""


@dataclasses.dataclass
class Example:
    """Where an example lies: the number of its tar, its name there, and the places of its image and caption."""

    tar: int
    key: str
    image: Place
    caption: Place | None = None
    label: int = 0


class Tars:
    """The examples of all tar files of a folder, sorted by name, in the order in which they lie there.

    An example is an image with a caption (.txt) and the number of its class (.cls), if it has them. `path` holds tar
    files (then the share `holdout` of the examples, by the hash of tar and name, is not in "train"), or a folder of
    them for each split: train, val. Opening reads the headers of all members; images are read alone. What is no
    image, label or caption is not read. Raises InputError for a tar that is cut short or damaged, or if some examples
    have captions and others none.
    """

    def __init__(self, path: str, split: str, holdout: float):
        folders, chosen = _folders(pathlib.Path(path).expanduser(), split)
        self.tars = [str(tar) for folder in folders for tar in sorted(folder.glob("*.tar"))]
        if not self.tars:
            raise InputError(f"{path} has no files that end in .tar: give the folder of a WebDataset")
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
            found = [x for part in threads.map(_indexed, self.tars, range(len(self.tars))) for x in part]
        # classes by all that is there: a label means the same in every split
        labels = max((example.label for example in found), default=0)
        self.classes = tuple(str(k) for k in range(labels + 1)) if labels else ("images",)
        if len(folders) > 1:
            found = [x for x in found if pathlib.Path(self.tars[x.tar]).parent in chosen]
        elif split != "all":
            found = [x for x in found if held_out(self._key(x), holdout) == (split != "train")]
        if not found:
            raise NoSplitError(
                f"{path} has no images for split {split!r}: expected members that end in {EXTENSIONS[0]}"
            )
        self.examples, self.left_out = found, dict[str, str]()
        lack = [self._key(example) for example in found if example.caption is None]
        if len(lack) not in (0, len(found)):
            raise InputError(
                f"{path}: {len(lack)} examples have no caption and others do: {some_of(lack, between=', ')}"
            )
        self.captioned = not lack

    def _key(self, example: Example) -> str:
        return f"{os.path.basename(self.tars[example.tar])}/{example.key}"

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Record:
        example = self.examples[index]
        path = self.tars[example.tar]
        record: Record = {"image": _read(path, example.image), "label": example.label}
        if example.caption is not None:
            record["caption"] = _read(path, example.caption).decode().strip()
        return record

    def name(self, index: int) -> str:
        example = self.examples[index]
        return f"{self.tars[example.tar]}/{example.key}"


def _folders(path: pathlib.Path, split: str) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """All folders of tars, and those of a split: one that holds them all is every split's."""
    if not path.is_dir():
        raise InputError(f"data.path {str(path)!r} is not a folder: give the folder of a WebDataset's tar files")
    apart = [name for name in _SPLITS if (path / name).is_dir()]
    if any(path.glob("*.tar")) or len(apart) < 2:
        return [path], [path]
    wanted = apart if split == "all" else [name for name in HELD_OUT.get(split, (split,)) if name in apart][:1]
    if not wanted:
        raise NoSplitError(f"{path} has no folder for split {split!r}: there are {', '.join(apart)}")
    return [path / name for name in apart], [path / name for name in wanted]


def _indexed(path: str, number: int) -> list[Example]:
    """The examples of one tar, in its order."""
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path} is no regular file: take it away")
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = posixpath.normpath(member.name).rpartition("/")
                key, dot, ending = name.partition(".")
                if member.isreg() and dot and key:
                    members.setdefault(f"{folder}/{key}".lstrip("/"), {})[f".{ending.lower()}"] = member
        if os.path.getsize(path) < tar.offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it has no end")
        found = [_example(path, number, key, parts) for key, parts in members.items()]
    except (tarfile.TarError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}): it is damaged or cut short, download it again") from error
    return [example for example in found if example is not None]


def _example(path: str, number: int, key: str, parts: dict[str, tarfile.TarInfo]) -> Example | None:
    def place(endings: tuple[str, ...], most: int) -> Place | None:
        found = next((parts[ending] for ending in endings if ending in parts), None)
        if found is not None and found.size > most:
            raise ValueError(f"{found.name} has {found.size} bytes, expected at most {most}")
        return None if found is None else (found.offset_data, found.size)

    image, label = place(EXTENSIONS, FILE_BYTES), place(LABELS, _SMALL)
    if image is None:
        return None
    return Example(number, key, image, place(CAPTIONS, _SMALL), 0 if label is None else _label(_read(path, label), key))


def _label(words: bytes, key: str) -> int:
    if not words.strip().isdigit() or not int(words) < np.iinfo(np.int32).max:
        raise ValueError(f"the class of {key} is {words[:40]!r}, expected a number")
    return int(words)


def _read(path: str, place: Place) -> bytes:
    with open(path, "rb") as file:
        file.seek(place[0])
        return file.read(place[1])
