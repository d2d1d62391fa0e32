"""Any set of images to ArrayRecord shards with a manifest (rqjax.data.shards)."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image

from rqjax.data import augment
from rqjax.data.config import DataConfig, open_source
from rqjax.data.images import encoded
from rqjax.data.records import Manifest, pack
from rqjax.data.shards import Part, make, names_digest
from rqjax.data.sources import NoSplitError, Source
from rqjax.errors import RunError, printable
from rqjax.files import patiently

OTHERS = ("validation", "test")
FILTER, QUALITY = "bilinear", 95
"""How images are scaled, the papers' filter, and the quality of the JPEGs that they become, colours at full size."""


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
    side: int = 0,
    seen: Callable[[int], None] = lambda images: None,
) -> Manifest:
    """The manifest of a new set in the folder `out`, of the images of `splits` that can be read; see shards.make.

    Images keep their bytes; those in memory become PNG. With a `side` the shorter one of an image is scaled down to so
    many pixels, once, and the image stored as a JPEG; a training with data.resize=`side` scales nothing then, and reads
    several times as many images a second.
    """
    settings = {"side": side} if side else {}
    images = functools.partial(_images, side)
    return make(splits, out, images, per_shard=per_shard, threads=threads, settings=settings, seen=seen)


def _images(side: int, part: Part, corrupt: dict[str, str]) -> Iterator[bytes | None]:
    return (_readable(part.source, index, side, corrupt) for index in range(part.first, part.last))


def _readable(source: Source, index: int, side: int, corrupt: dict[str, str]) -> bytes | None:
    """The record of an image; None, with a reason by its name in `corrupt`, if it cannot be read."""
    name = source.name(index)
    try:
        return patiently(functools.partial(_record, source, index, side), printable(name))
    except RunError:
        raise
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        corrupt[name] = augment.reason_of(error)
        return None


def _record(source: Source, index: int, side: int) -> bytes:
    """The record of an image, which is decoded to see that it can be. Raises any exception if not."""
    record = source[index]
    caption = {"caption": record["caption"]} if source.captioned else {}
    name = printable(source.name(index))
    return pack(_stored(record["image"], side), {"label": int(record["label"]), "name": name} | caption)


def _stored(image: bytes | np.ndarray, side: int) -> bytes:
    """The bytes that stand for an image in a set."""
    if isinstance(image, np.ndarray):
        decoded, kept = Image.fromarray(augment.pixels(image, 0, FILTER)), b""
    else:
        decoded, kept = augment.decode(image), image
    if side and min(decoded.size) > side:
        return encoded(augment.scale(decoded, side, FILTER), "jpeg", quality=QUALITY, subsampling=0)
    return kept or encoded(decoded)
