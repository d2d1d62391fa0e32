"""Images to global batches. Batch k is a pure function of (config, k, files): resuming needs no state but the step."""

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from jax.sharding import Mesh

from rqjax.checks import at_least, one_of
from rqjax.data import augment, sources
from rqjax.data.placing import placing
from rqjax.data.workers import end_with_parent
from rqjax.errors import InputError

NAMES = ("fashion_mnist", "folder", "tfds", "synthetic")
CROPS = ("random", "center", "random_resized")


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """Which images, how they are cropped, and in which order they come.

    A run that trains says all of it; the defaults neither scale, crop at random nor mirror.
    """

    name: str = "fashion_mnist"  # fashion_mnist (embedded), folder, tfds, synthetic
    path: str = ""  # folder: the folder. tfds: data_dir, or the folder that holds dataset_info.json
    dataset: str = ""  # tfds: its name, "imagenet2012" or "celeb_a:2.1.0"
    split: str = "train"  # train, test, validation, all; tfds: any of its split expressions
    holdout: float = 0.05  # folder without split folders: the share of files that is not in "train"
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
        return frozenset({"image", "label"})

    def check(self) -> None:
        """Raises InputError for a value that no source can serve."""
        one_of(NAMES, **{"data.name": self.name})
        one_of(augment.FILTERS, **{"data.filter": self.filter})
        one_of(CROPS, **{"data.crop": self.crop})
        one_of(("skip", "stop"), **{"data.on_corrupt": self.on_corrupt})
        if self.name != "tfds":
            one_of(sources.SPLITS, **{"data.split": self.split})
        at_least(1, **{f"data.{name}": getattr(self, name) for name in ("size", "batch", "count", "classes")})
        at_least(0, **{f"data.{name}": getattr(self, name) for name in ("resize", "threads", "workers", "seed")})
        if self.seed >= 2**32:
            raise InputError(f"data.seed is {self.seed}: expected less than 2**32")
        if 0 < self.resize < self.size:
            raise InputError(f"data.resize={self.resize} is smaller than data.size={self.size}: raise it, or set 0")
        if not 0 <= self.holdout < 1 or not 0 < self.min_scale <= 1:
            raise InputError(
                f"data.holdout={self.holdout} and data.min_scale={self.min_scale}: expected [0, 1) and (0, 1]"
            )
        if self.name == "folder" and not self.path:
            raise InputError("data.name=folder without data.path: give the folder of images")
        if self.name == "tfds" and not (self.path or self.dataset):
            raise InputError("data.name=tfds without data.dataset and data.path: give at least one of them")


def open_source(config: DataConfig) -> sources.Source:
    """The data set that `config` names: `len`, `[i]`, `.name(i)`, `.classes`. Raises InputError if there is none."""
    config.check()
    if config.name == "folder":
        return sources.Folder(config.path, config.split, config.holdout)
    if config.name == "tfds":
        return sources.Prepared(config.dataset, config.path, config.split)
    if config.name == "synthetic":
        return sources.Synthetic(config.count, config.classes, max(config.resize, config.size), config.split)
    embedded = sources.fashion_mnist(config.split)
    if config.resize and config.crop != "random_resized":  # once, since all of them fit in memory
        scaled = [augment.pixels(image, config.resize, config.filter)[..., :1] for image in embedded.image]
        embedded.image = np.stack(scaled)
    return embedded


class Stream(Iterator[dict[str, Any]], contextlib.AbstractContextManager["Stream"]):
    """Batches, and what is known about them so far.

    `source` is the data set. `corrupt` maps the name of each unreadable file met up to the last batch to the reason.
    Closing (also by `with`) lets go of the threads; a stream left open does so when it is dropped or the program ends.
    """

    def __init__(self, source: sources.Source, iterator: Any, finish: Callable[[dict[str, Any]], dict[str, Any]]):
        self.source = source
        self.corrupt: dict[str, str] = {}
        self._held, self._finish = [iterator], finish
        # also when nobody holds the stream any more, or at the end of the program while modules are still there
        self.close = weakref.finalize(self, _let_go, self._held)

    def __next__(self) -> dict[str, Any]:
        while True:
            if not self._held:
                raise StopIteration
            batch = next(self._held[0])
            self.corrupt |= batch.pop("corrupt")
            if batch:  # none is left where every file of it was unreadable
                return self._finish(batch)

    def __exit__(self, *error: object) -> None:
        self.close()

    def nothing(self) -> InputError:
        """The error of a stream that came to its end without an image."""
        name, reason = next(iter(self.corrupt.items()))
        return InputError(f"none of the images can be read, {name} for one ({reason}): give others")


def _let_go(held: list[Any]) -> None:
    while held:
        held.pop().close()


def batches(config: DataConfig, mesh: Mesh, start: int = 0, source: sources.Source | None = None) -> Stream:
    """Batches start, start + 1, ... without end: `config.fields` by name, one row for each image, rows over "data".

    `source` is that of `config`, if it is open already.

    Each host decodes only the rows that its devices hold, and the rows of a batch, their order and their augmentation
    are the same on any mesh. Raises InputError if the data axis does not divide the batch.
    """
    rows, place = placing(config.batch, mesh)
    source = source or open_source(config)
    return _shuffled(
        config, source, rows, start, lambda batch: {name: place(batch[name]) for name in sorted(config.fields)}
    )


def rows_of_batches(config: DataConfig, rows: Sequence[int], start: int = 0) -> Stream:
    """The rows `rows` of batches start, start + 1, ... as numpy arrays: what one host of a pod reads."""
    return _shuffled(config, open_source(config), rows, start, dict)


def _shuffled(
    config: DataConfig, source: sources.Source, rows: Sequence[int], start: int, finish: Callable[..., dict[str, Any]]
) -> Stream:
    examples = indices(len(source)).seed(config.seed)
    examples = examples.shuffle() if config.shuffle else examples
    # augmented before rows are picked: what an example looks like depends on its place in the run, not on the host
    examples = examples.repeat().random_map(loader(config, source, config.crop, config.flip))
    pick = _Rows(examples, list(rows), config.batch, start)
    local = indices(len(pick)).map(pick)  # a map, since grain measures the size of what a source gives
    return Stream(source, _iterate(local, len(rows), config), finish)


def examples(config: DataConfig, n: int | None = None) -> Stream:
    """All images, or those among the first `n`, in order and centrally cropped: batches of at most `config.batch`.

    numpy {"image": uint8 [b h w 3], "label": int32 [b], "index": int32 [b], the place in the source}. Unreadable
    images are left out (or end the run, as the configuration says), so any batch may be short. The shorter side is
    scaled to `resize`, or to `size` where training takes random_resized crops.
    """
    source = open_source(config)
    places = indices(len(source) if n is None else min(n, len(source)))
    load = loader(config, source, "center", False, replace=False)
    return Stream(source, _iterate(places.seed(config.seed).random_map(load), config.batch, config), dict)


def loader(config: DataConfig, source: sources.Source, crop: str, flip: bool, replace: bool = True) -> augment.Loader:
    """From an index of `source` to an example, cropped as `crop` says; see augment.Loader."""
    from_original = crop == "random_resized"
    side = config.resize or (config.size if config.crop == "random_resized" else 0)
    return augment.Loader(
        source=source,
        size=config.size,
        side=0 if from_original else side,
        # a JPEG may be read smaller as long as the filter still has two pixels or more for each that it makes
        draft=round(2 * config.size / config.min_scale**0.5) if from_original else 2 * side,
        resample=config.filter,
        crop=crop,
        min_scale=config.min_scale,
        mirror=flip,
        on_corrupt=config.on_corrupt,
        replace=replace,
    )


def indices(n: int) -> Any:
    """0 to n - 1, as a data set of grain's."""
    import grain  # here, since it takes a third of a second, and sampling reads no data

    return grain.MapDataset.range(n)


def read_options(config: DataConfig) -> Any:
    """How many threads make batches ahead."""
    import grain

    return grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.threads)


class _Rows:
    """Picks `rows` of every batch from a run of examples."""

    def __init__(self, examples: Any, rows: list[int], batch: int, start: int):
        self.examples, self.rows, self.batch, self.start = examples, rows, batch, start

    def __len__(self) -> int:
        return 2**40 * len(self.rows)  # without end, but within a float's and an index's reach

    def __call__(self, index: int) -> dict[str, Any]:
        step, row = divmod(index, len(self.rows))
        return self.examples[(self.start + step) * self.batch + self.rows[row]]


def _iterate(dataset: Any, batch: int, config: DataConfig) -> Any:
    dataset = dataset.batch(batch, batch_fn=_collate).to_iter_dataset(read_options(config))
    if config.workers:
        import grain

        if not flags.FLAGS.is_parsed():  # in a notebook; grain asks a flag of its own
            flags.FLAGS.mark_as_parsed()
        processes = grain.multiprocessing.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        # copied, since what comes from a worker lies in memory that it shares and that has to be given back
        dataset = dataset.mp_prefetch(processes, end_with_parent).map(_copy)
    return iter(dataset)


def _copy(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(x) if isinstance(x, np.ndarray) else x for name, x in batch.items()}


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    corrupt = {name: reason for row in rows for name, reason in row["corrupt"].items()}
    found = [row for row in rows if "image" in row]
    names = found[0].keys() - {"corrupt"} if found else ()
    return {"corrupt": corrupt} | {name: np.stack([row[name] for row in found]) for name in sorted(names)}
