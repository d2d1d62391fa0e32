"""The gain and the cost of classifier-free guidance: samples of a prior of Fashion-MNIST, by the scale.

    python benchmarks/guidance_curve.py runs/quickstart/rqtransformer [SCALE ...]

Prints for each scale the share of samples that have the class of most of their 7 nearest real images, the mean squared
difference between two samples of a class, and the precision and the recall of the samples among as many held-out
images, in pixels; in the last row held-out images are compared with other real ones. Top-p is 0.9. Asserts nothing.
"""

import dataclasses
import sys

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import rqjax
from rqjax import data
from rqjax.api import LoadedPrior
from rqjax.data import DataConfig
from rqjax.metrics import nearest_class, precision_recall

EACH = 100
"""Images of each class."""


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    prior = rqjax.load(sys.argv[1])
    if not isinstance(prior, LoadedPrior):
        sys.exit(f"{sys.argv[1]} is no prior: give the run directory of one")
    real, held_out = (images_of(prior.config.data, split) for split in ("train", "test"))
    some = {name: balanced(held_out[name], held_out["label"]) for name in held_out}
    labels = np.repeat(np.unique(real["label"]), EACH)
    table = Table("guidance", "of their class", "apart", "precision", "recall")
    for scale in [float(word) for word in sys.argv[2:]] or [1.0, 1.5, 2.0, 3.0, 4.0]:
        made = prior.generate(count=EACH, top_p=0.9, guidance=scale, progress=False)
        table.add_row(f"{scale:g}", *figures(made.images, labels, real, some["image"]))
    others = balanced(real["image"], real["label"])
    table.add_row("held-out images", *figures(some["image"], some["label"], real, others))
    Console().print(table)


def images_of(config: DataConfig, split: str) -> dict[str, np.ndarray]:
    """All images and labels of a split."""
    parts = list(data.examples(dataclasses.replace(config, split=split)))
    return {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}


def balanced(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows of the first EACH images of each class."""
    return np.concatenate([rows[labels == label][:EACH] for label in np.unique(labels)])


def figures(images: np.ndarray, labels: np.ndarray, real: dict[str, np.ndarray], known: np.ndarray) -> list[str]:
    """The columns of the table."""
    judge = jax.jit(nearest_class, static_argnames="classes")
    found = np.asarray(judge(images, real["image"], real["label"], classes=int(real["label"].max()) + 1))
    flat, others = (x.reshape(len(x), -1).astype(np.float32) / 255 for x in (images, known))
    apart = np.mean([distance(flat[labels == label]) for label in np.unique(labels)])
    return [f"{x:.3f}" for x in (np.mean(found == labels), apart, *precision_recall(others, flat))]


def distance(rows: np.ndarray) -> float:
    """The mean squared difference of two rows: twice their variance."""
    return float(2 * np.mean(np.var(rows, axis=0, ddof=1)))


if __name__ == "__main__":
    main()
