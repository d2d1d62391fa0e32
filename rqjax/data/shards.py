"""Shards of records with a manifest, made in parallel, and going on where an earlier start ended.

Each shard is a range of a split's images. It is written under another name and appears when it is complete, with a note
beside it of what it has; the manifest comes last, and the notes go.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rqjax.data.records import MANIFEST, OPTIONS, Latents, Manifest, Shard, digest, write_json
from rqjax.data.sources import Source
from rqjax.errors import InputError, RunError, printable

PLAN = "plan.json"
NOTES = ".notes"
"""The folder for notes about shards that are complete."""
KEPT = frozenset({"lock", ".DS_Store"})
"""Names that may be in a folder that a set is to be made in."""

Made = tuple[Shard, dict[str, str]]
"""A shard, and what could not be read of its images: {name: reason}."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A shard to be: the images `first` to `last` - 1 of a split's source, and the name of its file."""

    split: str
    source: Source
    first: int
    last: int
    file: str


RecordsOf = Callable[[Part, dict[str, str]], Iterator[bytes | None]]
"""The records of a part's images, in their order; None for one that cannot be read, with {name: reason} noted."""


def make(
    splits: Mapping[str, Source],
    out: pathlib.Path,
    records: RecordsOf,
    *,
    per_shard: int,
    threads: int,
    settings: Mapping[str, Any] = MappingProxyType({}),
    seen: Callable[[int], object] = lambda images: None,
    latents: Latents | None = None,
) -> Manifest:
    """The manifest of a new set in the folder `out`, of the `records` of `splits`, in their order.

    `settings` are those that the records depend on, in JSON's terms: only a start with the same goes on. `seen` is told
    of every number of images that are done; `latents` says what the records are if not images. Raises InputError
    before anything is written if `out` holds a set, a part of another one, or anything else; RunError if the disk
    fails.
    """
    plan = _plan(splits, per_shard) | dict(settings) | ({} if latents is None else {"latents": latents.stored()})
    _check_free(out, plan)
    parts = _parts(splits, per_shard)
    try:
        (out / NOTES).mkdir(parents=True, exist_ok=True)
        write_json(out / PLAN, plan)
        made = _Work(out, records, seen).all([part for of_split in parts.values() for part in of_split], threads)
    except OSError as error:
        raise RunError(
            f"{out}: a shard could not be written ({error.strerror or error}); what is complete stays, and the same"
            " command goes on"
        ) from error
    manifest = dataclasses.replace(_manifest(splits, parts, made), latents=latents)
    if not any(shard.count for shard in manifest.splits["train"]):
        raise InputError(f"none of the images can be read, {_first(manifest.left_out)}: give others")
    manifest.write(out)
    shutil.rmtree(out / NOTES)
    (out / PLAN).unlink()
    return manifest


def _manifest(splits: Mapping[str, Source], parts: Mapping[str, list[Part]], made: Mapping[str, Made]) -> Manifest:
    first = next(iter(splits.values()))
    left_out = {name: reason for source in splits.values() for name, reason in source.left_out.items()}
    left_out |= {name: reason for _, corrupt in made.values() for name, reason in corrupt.items()}
    shards = {split: tuple(made[part.file][0] for part in of_split) for split, of_split in parts.items()}
    return Manifest(tuple(first.classes), first.captioned, shards, left_out)


def _first(left_out: Mapping[str, str]) -> str:
    name, reason = next(iter(left_out.items()))
    return f"{printable(name)} for one ({printable(reason)})"


def names_digest(source: Source) -> str:
    """A digest of the names of all images, in order."""
    names = hashlib.blake2b(digest_size=16)
    for i in range(len(source)):
        names.update(source.name(i).encode("utf-8", "surrogateescape") + b"\0")
    return names.hexdigest()


def _plan(splits: Mapping[str, Source], per_shard: int) -> dict[str, Any]:
    """All that decides the shards, in JSON's terms."""
    sets = {split: {"images": len(source), "names": names_digest(source)} for split, source in splits.items()}
    classes = [list(source.classes) for source in splits.values()]
    if any(names != classes[0] for names in classes):
        raise InputError("the splits have different classes: both need the same, in the same order")
    return {"per_shard": per_shard, "classes": classes[0], "splits": sets}


def _check_free(out: pathlib.Path, plan: Mapping[str, Any]) -> None:
    """Raises InputError unless `out` is empty or missing, or holds the beginning of this very set."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise InputError(f"--out {out} is a file: choose a folder")
    inside = {path.name for path in out.iterdir()} - KEPT
    if MANIFEST in inside:
        raise InputError(f"--out {out} holds a prepared set already: choose another folder")
    if inside and PLAN not in inside:
        raise InputError(f"--out {out} is not empty ({min(inside)!a}): choose another folder")
    if not inside:
        return
    try:
        before = json.loads((out / PLAN).read_text())
    except ValueError:
        before = {}
    if before != plan:
        differs = [name for name in plan if before.get(name) != plan[name]]
        raise InputError(
            f"--out {out} holds the beginning of another set ({', '.join(differs)} differ): choose another folder, or"
            " delete it"
        )


def _parts(splits: Mapping[str, Source], per_shard: int) -> dict[str, list[Part]]:
    parts: dict[str, list[Part]] = {}
    for split, source in splits.items():
        many = -(-len(source) // per_shard)
        bounds = [(k * per_shard, min((k + 1) * per_shard, len(source))) for k in range(many)]
        files = [f"{split}-{k:05}-of-{many:05}.arrayrecord" for k in range(many)]
        parts[split] = [Part(split, source, *bound, file) for bound, file in zip(bounds, files, strict=True)]
    return parts


@dataclasses.dataclass(frozen=True)
class _Work:
    """The making of shards in the folder `out`, until it `ends`."""

    out: pathlib.Path
    records: RecordsOf
    seen: Callable[[int], object]
    ends: threading.Event = dataclasses.field(default_factory=threading.Event)

    def all(self, parts: Sequence[Part], threads: int) -> dict[str, Made]:
        """All shards by the names of their files."""
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            try:
                return dict(zip((part.file for part in parts), pool.map(self.made, parts), strict=True))
            except BaseException:
                self.ends.set()  # the threads would finish their shards otherwise
                pool.shutdown(cancel_futures=True)
                raise

    def made(self, part: Part) -> Made:
        """A shard, written now or by an earlier start."""
        note = self.out / NOTES / f"{part.file}.json"
        if note.is_file():  # it is renamed into place whole
            stored = json.loads(note.read_text())
            shard, path = Shard(**stored["shard"]), self.out / part.file
            if path.is_file() and path.stat().st_size == shard.bytes:
                self.seen(part.last - part.first)
                return shard, stored["left_out"]
        shard, corrupt = self._written(part)
        write_json(note, {"shard": dataclasses.asdict(shard), "left_out": corrupt})
        return shard, corrupt

    def _written(self, part: Part) -> Made:
        from array_record.python.array_record_module import ArrayRecordWriter

        path, partial = self.out / part.file, self.out / f".{part.file}.part"
        corrupt: dict[str, str] = {}
        count = 0
        writer = ArrayRecordWriter(str(partial), OPTIONS)
        try:
            for record in self.records(part, corrupt):
                if self.ends.is_set():
                    raise RunError("another shard has failed")
                if record is not None:
                    writer.write(record)
                    count += 1
                self.seen(1)
        finally:
            writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        return Shard(part.file, count, path.stat().st_size, digest(path)), corrupt
