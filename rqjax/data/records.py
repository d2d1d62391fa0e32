"""Images as a few large files that are read by index: ArrayRecord shards, and a manifest that says what is in them.

A record is four bytes (little endian), the length of a head; the head, JSON with what is known of an image: "label",
"caption", "name"; then the image, encoded as it came, or what a tokenizer made of it (Latents).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import struct
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from rqjax.data.latents import Latents
from rqjax.data.sources import HELD_OUT, NoSplitError, Record
from rqjax.errors import InputError, RunError, in_words
from rqjax.files import read_regular

MANIFEST = "dataset.json"
VERSION = 1
OPTIONS = "group_size:1,uncompressed"
"""Of the writer: every record is found alone, and encoded images do not shrink."""
MANIFEST_BYTES = 2**30
_CHUNK = 2**22


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records: its name, how many it has, its size, and its SHA-256."""

    file: str
    count: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A prepared set: the names of its classes, whether images have captions, and the shards of each split.

    `left_out` are the images that could not be read when it was made: {name: reason}. `latents` stand in the place of
    images, if they are there.
    """

    classes: tuple[str, ...]
    captioned: bool
    splits: Mapping[str, tuple[Shard, ...]]
    left_out: Mapping[str, str]
    latents: Latents | None = None

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Manifest":
        """That of a folder. Raises InputError if it is damaged, or disagrees with the files beside it."""
        path = folder / MANIFEST
        try:
            content = read_regular(path, MANIFEST_BYTES)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): prepare the set again, in another folder") from error
        manifest = cls.parsed(content, path)
        manifest._check_sizes(folder)
        return manifest

    @classmethod
    def parsed(cls, content: bytes, path: object) -> "Manifest":
        """That of a file's content, which lies at `path`. Raises InputError if it is damaged."""
        try:
            stored: Any = json.loads(content)
            if stored["version"] != VERSION:
                raise InputError(f"{path} is of version {stored['version']}: expected {VERSION}; take a newer rqjax")
            splits = {str(name): tuple(_shard(x) for x in shards) for name, shards in stored["splits"].items()}
            names = tuple(map(str, stored["classes"]))
            latents = Latents.parsed(stored["latents"]) if stored.get("latents") else None
            return cls(names, bool(stored["captioned"]), splits, dict(stored["left_out"]), latents)
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged ({in_words(error)}): prepare the set again, in another folder"
            ) from error

    def _check_sizes(self, folder: pathlib.Path) -> None:
        for shard in self.files:
            path = folder / shard.file
            size = os.path.getsize(path) if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size:,} bytes"
                raise InputError(
                    f"{path} {found}, expected {shard.bytes:,} by {MANIFEST}: copy the set again, whole, or prepare it"
                    " anew in another folder"
                )

    def write(self, folder: pathlib.Path) -> None:
        write_json(folder / MANIFEST, {"version": VERSION, **dataclasses.asdict(self)})

    @property
    def files(self) -> list[Shard]:
        """The shards of all splits."""
        return [shard for shards in self.splits.values() for shard in shards]

    def count(self, split: str) -> int:
        """The number of images of a split."""
        return sum(shard.count for shard in self.splits[split])

    def damaged(self, folder: pathlib.Path) -> dict[str, str]:
        """The shards whose bytes are not those that were written: {file: reason}. Reads all of them."""
        return {x.file: "its checksum is another" for x in self.files if digest(folder / x.file) != x.sha256}


def _shard(stored: Mapping[str, Any]) -> Shard:
    shard = Shard(str(stored["file"]), int(stored["count"]), int(stored["bytes"]), str(stored["sha256"]))
    if pathlib.PurePath(shard.file).name != shard.file or min(shard.count, shard.bytes) < 0:
        raise ValueError(f"no file of a set is {shard.file!r} with {shard.count} images")
    return shard


def write_json(path: pathlib.Path, content: object) -> None:
    """Writes a small file whole, in the place of an earlier one."""
    fresh = path.with_name(f".{path.name}.part")
    fresh.write_text(json.dumps(content, indent=1))
    fresh.replace(path)


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            found.update(part)
    return found.hexdigest()


def pack(image: bytes, head: Mapping[str, str | int]) -> bytes:
    """The bytes of a record."""
    words = json.dumps(head, separators=(",", ":")).encode()
    return struct.pack("<I", len(words)) + words + image


def unpack(record: bytes) -> Record:
    """The fields of a record. Raises ValueError if it is damaged."""
    (length,) = struct.unpack_from("<I", record)
    if length > len(record) - 4:
        raise ValueError(f"a record of {len(record)} bytes has a head of {length}")
    head: Any = json.loads(record[4 : 4 + length])
    fields: Record = {"image": record[4 + length :], "label": int(head.get("label", 0))}
    return fields | ({"caption": str(head["caption"])} if "caption" in head else {})


def is_prepared(path: str) -> bool:
    """Whether a folder is a prepared set."""
    return bool(path) and (pathlib.Path(path).expanduser() / MANIFEST).is_file()


class Records:
    """A split of a prepared set: "all", or one of its manifest; "test" and "validation" stand for each other.

    Records of latents have "latent", [views h w c], in the place of "image".
    Raises InputError for a manifest that is damaged or disagrees with the files, and NoSplitError for a split that the
    set does not have. A shard that turns out to hold another number of records ends the run that reads it (RunError).
    """

    def __init__(self, path: str, split: str):
        self.folder = pathlib.Path(path).expanduser()
        manifest = Manifest.read(self.folder)
        names = list(manifest.splits) if split == "all" else HELD_OUT.get(split, (split,))
        names = [name for name in names if name in manifest.splits]
        if not names:
            raise NoSplitError(
                f"{self.folder} has no split {split!r}: choose data.split from {', '.join(manifest.splits)}"
            )
        chosen = names if split == "all" else names[:1]
        self.split = split if split == "all" else names[0]
        self.shards = [shard for name in chosen for shard in manifest.splits[name] if shard.count]
        if not self.shards:
            raise NoSplitError(f"split {split!r} of {self.folder} is empty: choose another data.split")
        self.classes, self.captioned, self.latents = manifest.classes, manifest.captioned, manifest.latents
        self.left_out: dict[str, str] = {}
        self._ends = np.cumsum([shard.count for shard in self.shards])
        self._readers: dict[int, Any] = {}
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        k = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[k]) - self.shards[k].count
        fields = unpack(self._reader(k).read([int(index) - first])[0])
        return fields if self.latents is None else fields | {"latent": self.latents.views_of(fields.pop("image"))}

    def name(self, index: int) -> str:
        return f"{self.folder}/{self.split}[{index}]"

    def _reader(self, k: int) -> Any:
        with self._opening:
            if k not in self._readers:
                self._readers[k] = self._opened(self.shards[k])
            return self._readers[k]

    def _opened(self, shard: Shard) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(self.folder / shard.file))
        if not reader.ok() or reader.num_records() != shard.count:
            raise RunError(
                f"{self.folder / shard.file} has {reader.num_records()} records, expected {shard.count} by {MANIFEST}:"
                " it is damaged, copy it again"
            )
        return reader

    def __getstate__(self) -> dict[str, Any]:  # for worker processes, which open the files themselves
        return {**self.__dict__, "_readers": {}, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_opening": threading.Lock()}
