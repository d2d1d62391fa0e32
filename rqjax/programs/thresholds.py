"""The entropy thresholds of a data set, for DQ-VAEs whose router goes by thresholds.

`rqjax thresholds --images FOLDER --size 256 --patch 16 --bins=-1_1 --out thresholds.json`
"""

from collections.abc import Sequence

import jax
import numpy as np

from rqjax import data
from rqjax.data.images import to_float
from rqjax.errors import InputError
from rqjax.flags.thresholds import BINS_FLAG, COUNT, IMAGES, OUT, OVERWRITE, PATCH, SIZE, SPLIT
from rqjax.quantize.entropy import patch_entropy, table_json, thresholds
from rqjax.store import outputs


def main(_: Sequence[str]) -> None:
    """Computes, prints and writes the table that the flags describe."""
    if SIZE.value % PATCH.value:
        raise InputError(f"--patch {PATCH.value} does not divide --size {SIZE.value}: choose a divisor")
    out = outputs.checked(OUT.value, (".json",), overwrite=OVERWRITE.value)
    settings = data.DataConfig(split=SPLIT.value, size=SIZE.value, resize=SIZE.value, batch=64)
    if IMAGES.value:
        settings.name, settings.path = "folder", IMAGES.value
    entropy = jax.jit(lambda image: patch_entropy(to_float(image), PATCH.value, BINS_FLAG.value))
    with data.examples(settings, COUNT.value) as batches:
        entropies = [np.asarray(entropy(batch["image"])).reshape(-1) for batch in batches]
    for line in data.skipped({**batches.source.left_out, **batches.corrupt}):
        print(line)
    if not entropies:
        raise batches.nothing()
    table = thresholds(np.concatenate(entropies))
    outputs.write_text(out, table_json(table, BINS_FLAG.value, PATCH.value))
    print(f"{out}: {sum(map(len, entropies))} patches of {PATCH.value}x{PATCH.value}, bins {BINS_FLAG.value}")
    for percentile in (10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90):
        print(f"  share of fine regions {1 - percentile / 100:.2f}   threshold {table[percentile]:.6g}")
