"""The description of a data set, and the source that it means."""

import dataclasses

import numpy as np

from rqjax.checks import at_least, one_of, rates
from rqjax.data import augment
from rqjax.data.bucket import at_hand
from rqjax.data.captions import Captioned
from rqjax.data.lsun import Lsun
from rqjax.data.records import Records, is_prepared
from rqjax.data.sources import SPLITS, Folder, Source, Synthetic, fashion_mnist
from rqjax.data.tars import Tars
from rqjax.data.tfds import Prepared
from rqjax.errors import InputError
from rqjax.store.remote import BUCKET

NAMES = ("fashion_mnist", "folder", "captions", "tars", "lmdb", "tfds", "latents", "synthetic")
EMBEDDED = "fashion_mnist"
"""The set that is a part of the package."""
OF_FILES = ("folder", "captions", "tars", "lmdb")
"""Sets that lie in files of the user's, at `path`, which may be a prepared set instead."""
CROPS = ("random", "center", "random_resized")


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """Which images, how they are cropped, and in which order they come.

    A run that trains says all of it; the defaults neither scale, crop at random nor mirror.
    """

    # fashion_mnist (embedded), folder, captions (a list of images with them), tars (WebDataset), lmdb (LSUN), tfds,
    # synthetic; latents (a set of rqjax encode, for a prior: nothing is scaled, cropped or mirrored)
    name: str = EMBEDDED
    # folder, captions, tars, lmdb: its place, or a set of launch/prepare.py; latents: one of rqjax encode; both may
    # lie in a bucket, gs://BUCKET/SET. tfds: data_dir, or dataset_info.json's folder
    path: str = ""
    cache: str = ""  # folder for the copy of a set in a bucket; the user's cache folder if not given
    dataset: str = ""  # tfds: its name, "imagenet2012" or "celeb_a:2.1.0"
    split: str = "train"  # train, test, validation, all; tfds: any of its split expressions
    holdout: float = 0.05  # folder, captions, tars, lmdb without splits: the share of images that is not in "train"
    synsets: bool = False  # folder: readable names for WordNet ids, by a list of synsets beside it
    vocabulary: str = ""  # folder with vocab.json and merges.txt, for captions
    text_length: int = 0  # tokens of a caption, cut off or padded; 0: batches have no captions
    text_dropout: float = 0.0  # share of merges that is left out while training (BPE dropout)
    count: int = 1024  # synthetic: images
    classes: int = 10  # synthetic: classes
    resize: int = 0  # pixels of the shorter side before a random or center crop; 0 leaves it as it is
    filter: str = "bilinear"  # bilinear, bicubic, lanczos; all of them antialiased
    crop: str = "center"  # random, center, random_resized (a square of the original, scaled to `size`)
    min_scale: float = 0.75  # random_resized: the smallest share of the area
    size: int  # pixels of a side that the nets see
    flip: bool = False  # mirror half of the images
    batch: int  # images a step, over all hosts
    shuffle: bool = True  # another order in every epoch
    seed: int = 0  # of the order, of random crops and of mirroring
    on_corrupt: str = "skip"  # skip: the next readable image takes its place. stop: the run ends
    threads: int = 8  # each makes a batch of its own
    workers: int = 0  # processes, each with `threads`; 0 decodes in this one

    @property
    def fields(self) -> frozenset[str]:
        """The fields of a batch that this data gives to a step."""
        found = "latent" if self.name == "latents" else "image"
        return frozenset({found, "label"} | ({"text"} if self.text_length else set()))

    def check(self) -> None:
        """Raises InputError for a value that no source can serve."""
        one_of(NAMES, **{"data.name": self.name})
        one_of(augment.FILTERS, **{"data.filter": self.filter})
        one_of(CROPS, **{"data.crop": self.crop})
        one_of(("skip", "stop"), **{"data.on_corrupt": self.on_corrupt})
        if self.name != "tfds":
            one_of(SPLITS, **{"data.split": self.split})
        at_least(1, **{f"data.{name}": getattr(self, name) for name in ("size", "batch", "count", "classes")})
        no_less = ("resize", "threads", "workers", "seed", "text_length")
        at_least(0, **{f"data.{name}": getattr(self, name) for name in no_less})
        rates(**{"data.text_dropout": self.text_dropout})
        if self.seed >= 2**32:
            raise InputError(f"data.seed is {self.seed}: expected less than 2**32")
        if 0 < self.resize < self.size:
            raise InputError(f"data.resize={self.resize} is smaller than data.size={self.size}: raise it, or set 0")
        if not 0 <= self.holdout < 1 or not 0 < self.min_scale <= 1:
            raise InputError(
                f"data.holdout={self.holdout} and data.min_scale={self.min_scale}: expected [0, 1) and (0, 1]"
            )
        if self.name in (*OF_FILES, "latents") and not self.path:
            raise InputError(f"data.name={self.name} without data.path: give its folder")
        if self.name in (EMBEDDED, "synthetic") and self.path:
            raise InputError(
                f"data.path={self.path} with data.name={self.name}, which is read from no path: leave one of them out,"
                " or give data.name=folder for images of your own"
            )
        if self.path.startswith(BUCKET) and self.name not in (*OF_FILES, "latents"):
            raise InputError(
                f"data.path {self.path} with data.name={self.name}: only sets of launch/prepare.py and of rqjax encode"
                " are read from a bucket; copy this one here, or prepare it"
            )
        if self.text_length and not self.vocabulary:
            raise InputError(
                f"data.text_length={self.text_length} without data.vocabulary: give a folder with vocab.json and"
                " merges.txt; launch/vocabulary.py makes one"
            )
        if self.name == "tfds" and not (self.path or self.dataset):
            raise InputError("data.name=tfds without data.dataset and data.path: give at least one of them")


def open_source(config: DataConfig) -> Source:
    """The data set that `config` names: `len`, `[i]`, `.name(i)`, `.classes`. Raises InputError if there is none."""
    config.check()
    source = _open(dataclasses.replace(config, path=at_hand(config.path, config.cache)))
    if config.text_length and not source.captioned:
        raise InputError(
            f"data.text_length={config.text_length}, and {source.name(0)} has no caption: give images with captions"
            " (data.name=captions or tars), or set it to 0"
        )
    return source


def _open(config: DataConfig) -> Source:
    if config.name == "latents" or (config.name in OF_FILES and is_prepared(config.path)):
        return _records(config)
    if config.name == "folder":
        return Folder(config.path, config.split, config.holdout, config.synsets)
    if config.name == "captions":
        return Captioned(config.path, config.split, config.holdout)
    if config.name == "tars":
        return Tars(config.path, config.split, config.holdout)
    if config.name == "lmdb":
        return Lsun(config.path, config.split, config.holdout)
    if config.name == "tfds":
        return Prepared(config.dataset, config.path, config.split)
    if config.name == "synthetic":
        return Synthetic(config.count, config.classes, max(config.resize, config.size), config.split)
    embedded = fashion_mnist(config.split)
    if config.resize and config.crop != "random_resized":  # once, since all of them fit in memory
        scaled = [augment.pixels(image, config.resize, config.filter)[..., :1] for image in embedded.image]
        embedded.image = np.stack(scaled)
    return embedded


def _records(config: DataConfig) -> Records:
    if not is_prepared(config.path):
        raise InputError(f"data.path {config.path!r} holds no latents: expected a folder that `rqjax encode` made")
    records = Records(config.path, config.split)
    if (records.latents is not None) != (config.name == "latents"):
        found, name = ("images", "folder") if records.latents is None else ("latents", "latents")
        raise InputError(f"data.name={config.name}, and {config.path} holds {found}: set data.name={name}")
    return records
