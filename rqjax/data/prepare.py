"""Any set of images to ArrayRecord shards with a manifest (rqjax.data.shards)."""

import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image

from rqjax.data import augment
from rqjax.data.config import DataConfig, open_source
from rqjax.data.records import Manifest, pack
from rqjax.data.shards import Part, make, names_digest
from rqjax.data.sources import NoSplitError, Source
from rqjax.errors import RunError, printable
from rqjax.files import patiently

OTHERS = ("validation", "test")


def splits_of(config: DataConfig) -> dict[str, Source]:
    """The splits of the data that `config` names: "train", and those held out, as far as there are any, each once."""
    found = {"train": open_source(dataclasses.replace(config, split="train"))}
    for split in OTHERS:
        try:
            source = open_source(dataclasses.replace(config, split=split))
        except NoSplitError:
            continue
        if all(names_digest(source) != names_digest(other) for other in found.values()):
            found[split] = source
    return found


def prepare(
    splits: Mapping[str, Source],
    out: pathlib.Path,
    *,
    per_shard: int,
    threads: int,
    seen: Callable[[int], None] = lambda images: None,
) -> Manifest:
    """The manifest of a new set in the folder `out`, of the images of `splits` that can be read; see shards.make.

    Images keep their bytes; those in memory become PNG.
    """
    return make(splits, out, _images, per_shard=per_shard, threads=threads, seen=seen)


def _images(part: Part, corrupt: dict[str, str]) -> Iterator[bytes | None]:
    return (_readable(part.source, index, corrupt) for index in range(part.first, part.last))


def _readable(source: Source, index: int, corrupt: dict[str, str]) -> bytes | None:
    """The record of an image; None, with a reason by its name in `corrupt`, if it cannot be read."""
    name = source.name(index)
    try:
        return patiently(functools.partial(_record, source, index), printable(name))
    except RunError:
        raise
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        corrupt[name] = augment.reason_of(error)
        return None


def _record(source: Source, index: int) -> bytes:
    """The record of an image, which is decoded to see that it can be. Raises any exception if not."""
    record = source[index]
    image = record["image"]
    if isinstance(image, np.ndarray):
        out = io.BytesIO()
        Image.fromarray(augment.pixels(image, 0, "bilinear")).save(out, "png")
        image = out.getvalue()
    else:
        augment.decode(image)
    caption = {"caption": record["caption"]} if source.captioned else {}
    name = printable(source.name(index))
    return pack(image, {"label": int(record["label"]), "name": name} | caption)
