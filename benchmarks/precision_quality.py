"""A prior in the precisions that `rqjax sample --dtype` knows: what fewer bits of its weights cost.

    PYTHONPATH=. python benchmarks/precision_quality.py runs/quickstart/rqtransformer runs/dq/dqtransformer

For each precision: bytes of the prior, the loss on held-out images (the same codes and keys for all), and the share of
greedy codes that are those of float32, of one image of each class, and of the last row of regions of held-out
images, of which the rows above are given: where one code differs, all behind it may. Computation is that of
--dtype, so that "int8" differs from "float32" by the weights alone on a CPU.
"""

import argparse
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import rqjax
from rqjax.api import LoadedPrior
from rqjax.api.memory import bytes_of
from rqjax.data import HeldOut
from rqjax.data.images import to_float
from rqjax.mesh import make_mesh
from rqjax.nets.condition import labels_of
from rqjax.nets.precision import PRECISIONS

Batches = list[dict[str, jax.Array]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("priors", nargs="+", help="run directories")
    parser.add_argument("--images", type=int, default=256, help="held-out images, a multiple of 64")
    asked = parser.parse_args()
    head = ("precision", "MiB", "held-out loss", "greedy codes of classes", "of last rows")
    for path in asked.priors:
        table = Table(*head, title=path)
        expected: list[np.ndarray] = []
        for dtype in PRECISIONS:
            prior = rqjax.load(path, devices=jax.devices()[:1], dtype=dtype)
            if not isinstance(prior, LoadedPrior):
                raise SystemExit(f"{path} is no prior: give the run directory of one")
            held_out = batches(prior, asked.images)
            found = [of_classes(prior), last_rows(prior, held_out)]
            expected = expected or found
            shares = [f"{np.mean(a == b):.4f}" for a, b in zip(found, expected, strict=True)]
            table.add_row(dtype, f"{bytes_of(prior.model) / 2**20:.2f}", f"{loss(prior, held_out):.5f}", *shares)
        Console().print(table)


def batches(prior: LoadedPrior, images: int) -> Batches:
    """The first held-out images, 64 at once."""
    config = prior.config
    return list(HeldOut(config.data, config.eval_split, 64, make_mesh("1x1", jax.devices()[:1]), images // 64))


def loss(prior: LoadedPrior, held_out: Batches) -> float:
    """The mean loss, each batch with a key of its own."""

    @jax.jit
    def of(model: Any, tokenizer: Any, batch: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        read = {name: to_float(x) if name == "image" else x for name, x in batch.items()}
        return model.loss(tokenizer, read, key, train=False)[0]

    keys = jax.random.split(jax.random.key(0), len(held_out))
    models = prior.model, prior.tokenizer.model
    return float(np.mean([of(*models, batch, key) for batch, key in zip(held_out, keys, strict=True)]))


def of_classes(prior: LoadedPrior) -> np.ndarray:
    return flat(prior.generate(list(range(prior.described.condition.choices)), temperature=0, progress=False).codes)


def last_rows(prior: LoadedPrior, held_out: Batches) -> np.ndarray:
    """Greedy codes of the last row of regions."""
    images = np.concatenate([batch["image"] for batch in held_out])
    labels = np.concatenate([labels_of(batch, prior.described.condition.field) for batch in held_out])
    codes = prior.tokenizer.encode(images, progress=False)
    rows = jax.tree.leaves(codes)[-1].shape[1]
    given = prior.tokenizer.keep(codes, rows=rows - 1)
    drawn = prior.generate(labels.tolist(), given=given, temperature=0, progress=False).codes
    new = np.asarray(jax.tree.leaves(given)[0]) < 0
    return flat(drawn)[: new.size][new.ravel()]


def flat(codes: Any) -> np.ndarray:
    """All codes in one row, then their grains if they have some."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(codes)])


if __name__ == "__main__":
    main()
