"""Several processes of one run: whether they were started with the same configuration."""

import json
import time
import zlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from rqjax.errors import InputError, some_of
from rqjax.run.config import differences

LAST = 2
"""Seconds by which process 0 leaves after the others: its going ends them, and each has its line to print."""


def check_same(settings: Mapping[str, object]) -> None:
    """Compares settings (JSON) with those of the run's other processes, which all have to call this.

    Raises InputError in every process if one has others: they would wait for each other without end.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(settings, sort_keys=True).encode()
    digests = multihost_utils.process_allgather(np.array([zlib.crc32(text), len(text)], np.uint32))
    other = next((i for i, digest in enumerate(digests) if (digest != digests[0]).any()), None)
    if other is None:
        return
    padded = np.zeros(int(digests[:, 1].max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    texts = multihost_utils.process_allgather(padded)
    here, there = (json.loads(bytes(texts[i][: digests[i, 1]])) for i in (0, other))
    if jax.process_index() == 0:
        time.sleep(LAST)
    raise InputError(_told(here, there, other))


def _told(here: dict[str, object], there: dict[str, object], other: int) -> str:
    """One line about settings of process 0 and of another."""
    fields = [
        f"{name} is {a} in process 0 and {b} in process {other}" for name, (a, b) in differences(here, there).items()
    ]
    return f"the processes of this run disagree: {some_of(fields)}: start all with the same flags"
