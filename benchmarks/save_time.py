"""How much longer a save takes with the digests of its arrays: the call that a step waits for, and the whole.

    python benchmarks/save_time.py [MEGABYTES] [SAVES]

Saves a state of so many megabytes (200), with and without digests by turns, so many times each (7). Prints medians in
seconds and their ratio; asserts nothing.
"""

import pathlib
import statistics
import sys
import tempfile
import time
import types
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from rqjax.store.checkpoint import Checkpoints
from rqjax.store.digests import DigestHandler

ARRAY = 4 * 2**20
"""Bytes of each array of the state."""


class Without:
    """Saves without digests, as long as the block runs."""

    def __enter__(self) -> None:
        self._before = DigestHandler.async_save
        DigestHandler.async_save = _nothing

    def __exit__(self, *_: object) -> None:
        DigestHandler.async_save = self._before


async def _nothing(self: DigestHandler, directory: object, args: object) -> list[Any]:
    return []


def saved(saves: Checkpoints, step: int, state: object) -> tuple[float, float]:
    """Seconds of a save until the step may go on, and until it is whole."""
    start = time.perf_counter()
    saves.save(step, state, {})
    called = time.perf_counter() - start
    saves.wait()
    return called, time.perf_counter() - start


def main() -> None:
    megabytes, count = [int(word) for word in sys.argv[1:]] + [200, 7][len(sys.argv) - 1 :]
    keys = jax.random.split(jax.random.key(0), max(megabytes * 2**20 // ARRAY, 1))
    model = {f"layer{i}": jax.random.normal(key, (1024, ARRAY // 4096)) for i, key in enumerate(keys)}
    state = types.SimpleNamespace(step=jnp.int32(0), model=jax.block_until_ready(model))
    found: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(pathlib.Path(folder), every=1, keep=1) as saves:
        saved(saves, 1, state)  # the first one pays for more than itself
        for step in range(2, 2 + 2 * count, 2):
            with Without():
                found["without"].append(saved(saves, step, state))
            found["with"].append(saved(saves, step + 1, state))
    table = Table(
        "digests", "until the step goes on (s)", "until it is whole (s)", title=f"{megabytes} MB, {count} saves"
    )
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    for name, row in medians.items():
        table.add_row(name, *(f"{value:.3f}" for value in row))
    table.add_row("ratio", *(f"{b / a:.2f}" for a, b in zip(*medians.values(), strict=True)))
    Console().print(table)


if __name__ == "__main__":
    main()
