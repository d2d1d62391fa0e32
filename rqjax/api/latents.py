"""A tokenizer once over a set of images: the records of what it makes of each, for priors to train on."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rqjax.api.batches import Batches
from rqjax.data.config import DataConfig
from rqjax.data.images import to_float
from rqjax.data.latents import DTYPES, VECTORS, Latents
from rqjax.data.loader import Loader
from rqjax.data.pipeline import loader
from rqjax.data.records import pack
from rqjax.data.shards import Part
from rqjax.data.sources import Source
from rqjax.errors import printable
from rqjax.interface import Tokenizer
from rqjax.run.directory import Run
from rqjax.run.latents import checksum

Example = tuple[UInt8[np.ndarray, "views size size 3"] | None, dict[str, str | int], dict[str, str]]
"""The views of an image (None if it cannot be read), what is known of it, and {name: reason}."""


class Encoder:
    """Latents of images by the tokenizer in `run`, on all devices of this process.

    `data` says how images are scaled, and how all crops are drawn but the central first: `crops` of each image of
    "train", and with `flip` each of them and its mirror image; of other splits one view. `vectors`, or codes.
    """

    def __init__(self, run: Run, data: DataConfig, *, vectors: bool, crops: int = 1, flip: bool = False):
        self.data, self.vectors, self.crops, self.flip = data, vectors, crops, flip
        self._batches = Batches.over(most=data.batch)
        tokenizer = run.model()
        self.latents = _described(tokenizer, run.tokenizer_config.resolution, vectors, crops * (2 if flip else 1))
        self._tokenizer = self._batches.everywhere(tokenizer)

    def records(self, part: Part, corrupt: dict[str, str]) -> Iterator[bytes | None]:
        """The records of a part's images, in their order; None, with a reason in `corrupt`, where there is none."""
        training = part.split == "train"
        read = _Views(part.source, self.data, self.crops if training else 1, self.flip and training)
        together = max(self.data.batch // (self.latents.views if training else 1), 1)
        with concurrent.futures.ThreadPoolExecutor(max(self.data.threads, 1)) as pool:
            examples = _ahead(pool, read, range(part.first, part.last), 2 * together)
            while group := list(itertools.islice(examples, together)):
                yield from self._packed(group, corrupt)

    def _packed(self, group: list[Example], corrupt: dict[str, str]) -> Iterator[bytes | None]:
        readable = [views for views, _, _ in group if views is not None]
        found = iter(self._encoded(np.concatenate(readable)) if readable else ())
        for views, head, reasons in group:
            corrupt |= reasons
            yield None if views is None else pack(b"".join(next(found).tobytes() for _ in views), head)

    def _encoded(self, images: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
        encode = functools.partial(_latents, self._tokenizer, vectors=self.vectors)
        return self._batches.run(encode, images).astype(DTYPES[self.latents.dtype])


@functools.partial(jax.jit, static_argnames="vectors")
def _latents(tokenizer: Tokenizer, image: UInt8[Array, "n h w 3"], vectors: bool) -> Array:
    return tokenizer.latents(to_float(image), vectors=vectors)


def _described(tokenizer: Tokenizer, size: int, vectors: bool, views: int) -> Latents:
    like = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    _, high, wide, channels = jax.eval_shape(functools.partial(_latents, vectors=vectors), tokenizer, like).shape
    most = max(int(np.max(sizes)) for sizes in jax.tree.leaves(tokenizer.code_sizes))
    codes = "uint16" if most <= 2**16 else "int32"
    return Latents(checksum(tokenizer), (high, wide, channels), VECTORS if vectors else codes, views)


@dataclasses.dataclass(frozen=True)
class _Views:
    """From an index of `source` to its views, the same at every start."""

    source: Source
    data: DataConfig
    crops: int
    flip: bool

    @functools.cached_property
    def _central(self) -> Loader:
        central = loader(self.data, self.source, "center", False, replace=False)
        return dataclasses.replace(central, captions=_as_it_is if self.source.captioned else None)

    @functools.cached_property
    def _drawn(self) -> Loader:
        return loader(self.data, self.source, self.data.crop, False, replace=False)

    def __call__(self, index: int) -> Example:
        found = self._central(index, np.random.default_rng(0))  # nothing is drawn
        if "image" not in found:
            return None, {}, found["corrupt"]
        draws = [np.random.default_rng([self.data.seed, index, crop]) for crop in range(1, self.crops)]
        crops = [found["image"], *(self._drawn(index, draw)["image"] for draw in draws)]
        views = [view for crop in crops for view in ((crop, crop[:, ::-1]) if self.flip else (crop,))]
        caption = {"caption": found["text"]} if "text" in found else {}
        head = {"label": int(found["label"]), "name": printable(self.source.name(index))} | caption
        return np.stack(views), head, {}


def _as_it_is(caption: str, generator: np.random.Generator) -> Any:
    return caption


def _ahead(
    pool: concurrent.futures.Executor, compute: Callable[[int], Example], items: range, most: int
) -> Iterator[Example]:
    """`compute` of each item in order, at most `most` of them begun before they are taken."""
    waiting: collections.deque[concurrent.futures.Future[Example]] = collections.deque()
    rest = iter(items)
    try:
        while True:
            waiting.extend(pool.submit(compute, item) for item in itertools.islice(rest, most - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
