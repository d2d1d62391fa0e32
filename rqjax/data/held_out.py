"""Every image of a split once, in global batches of one size: rows that are left over count for nothing."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rqjax.data.config import DataConfig, open_source
from rqjax.data.pipeline import indices, loader, read_options
from rqjax.data.placing import placing
from rqjax.data.records import Records


class HeldOut:
    """The images of the split `split` of the data that `config` names, in order and centrally cropped.

    `len` is the number of batches of `batch` images, at most `limit` if that is not 0. Raises InputError if there is
    no such split, or if the mesh does not divide the batch.
    """

    def __init__(self, config: DataConfig, split: str, batch: int, mesh: Mesh, limit: int = 0):
        self._config, self._batch = dataclasses.replace(config, split=split), batch
        self._source = open_source(self._config)
        self._rows, self._place = placing(batch, mesh)
        whole = -(-len(self._source) // batch)
        self._batches = min(whole, limit) if limit else whole

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        """`config.fields` by name, one row for each image, and `counts` bool [b]: not for rows that fill up the last
        batch, nor for files that cannot be read.
        """
        config = self._config
        load = loader(config, self._source, "center", False, replace=False)
        rows = indices(self._batches * len(self._rows)).map(self._index).seed(config.seed)
        rows = rows.random_map(lambda index, generator: self._row(load, index, generator))
        for part in rows.batch(len(self._rows)).to_iter_dataset(read_options(config)):
            yield {name: self._place(x) for name, x in part.items()}

    def _index(self, number: int) -> int:
        """The place in the source of this host's row `number`, which may lie behind the last."""
        batch, row = divmod(number, len(self._rows))
        return batch * self._batch + self._rows[row]

    def _row(self, load: Any, index: int, generator: np.random.Generator) -> dict[str, Any]:
        found = load(index, generator) if index < len(self._source) else {}
        size = self._config.size
        empty = {"image": np.zeros((size, size, 3), np.uint8), "label": np.int32(0)}
        empty |= {"text": np.zeros(self._config.text_length, np.int32)}
        if isinstance(self._source, Records) and self._source.latents is not None:
            empty["latent"] = self._source.latents.nothing()
        row = {name: found.get(name, empty[name]) for name in sorted(self._config.fields)}
        return row | {"counts": np.bool_("index" in found)}
