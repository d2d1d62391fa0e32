"""Images to global batches. Batch k is a pure function of (config, k, files): resuming needs no state but the step."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from jax.sharding import Mesh
from jaxtyping import Int

from rqjax.data.config import DataConfig, open_source
from rqjax.data.loader import ImageLoader, LatentLoader, Loader
from rqjax.data.placing import placing
from rqjax.data.sources import Source
from rqjax.data.text import Vocabulary
from rqjax.data.workers import end_with_parent
from rqjax.errors import InputError


class Stream(Iterator[dict[str, Any]], contextlib.AbstractContextManager["Stream"]):
    """Batches, and what is known about them so far.

    `source` is the data set. `corrupt` maps the name of each unreadable file met up to the last batch to the reason.
    Closing (also by `with`) lets go of the threads; a stream left open does so when it is dropped or the program ends.
    """

    def __init__(self, source: Source, iterator: Any, finish: Callable[[dict[str, Any]], dict[str, Any]]):
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


def batches(config: DataConfig, mesh: Mesh, start: int = 0, source: Source | None = None) -> Stream:
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
    config: DataConfig, source: Source, rows: Sequence[int], start: int, finish: Callable[..., dict[str, Any]]
) -> Stream:
    examples = indices(len(source)).seed(config.seed)
    examples = examples.shuffle() if config.shuffle else examples
    # augmented before rows are picked: what an example looks like depends on its place in the run, not on the host
    load = loader(config, source, config.crop, config.flip, text_dropout=config.text_dropout)
    examples = examples.repeat().random_map(load)
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


def loader(
    config: DataConfig,
    source: Source,
    crop: str,
    flip: bool,
    replace: bool = True,
    text_dropout: float = 0.0,
) -> Loader:
    """From an index of `source` to an example, cropped as `crop` says; see Loader."""
    captions = _Captions(config, text_dropout) if config.text_length else None
    if config.name == "latents":
        return LatentLoader(
            source=source, drawn=replace, on_corrupt=config.on_corrupt, replace=replace, captions=captions
        )
    from_original = crop == "random_resized"
    side = config.resize or (config.size if config.crop == "random_resized" else 0)
    return ImageLoader(
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
        captions=captions,
    )


class _Captions:
    """Captions to token ids, as a configuration says."""

    def __init__(self, config: DataConfig, dropout: float):
        self.vocabulary = Vocabulary.read(config.vocabulary)
        self.length, self.dropout = config.text_length, dropout

    def __call__(self, caption: str, generator: np.random.Generator) -> Int[np.ndarray, "{self.length}"]:
        return self.vocabulary.ids(caption, self.length, self.dropout, generator)


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
    found = [row for row in rows if "index" in row]
    names = found[0].keys() - {"corrupt"} if found else ()
    return {"corrupt": corrupt} | {name: np.stack([row[name] for row in found]) for name in sorted(names)}
