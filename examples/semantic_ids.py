"""Semantic ids: embedding vectors of items become short tuples of codes, as generative recommenders use them.

The items are 9,000 images of clothes (Fashion-MNIST, which the package carries), their embeddings 32 principal
components. A residual quantizer gives each item 3 codes out of 64. Items that are alike then share the first codes, so
that a model of sequences of ids learns about groups of items before it learns about each of them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rqjax.data.sources import fashion_mnist
from rqjax.quantize import QuantizerConfig, ResidualQuantizer

DIM, BATCH = 32, 2048


def embeddings() -> np.ndarray:
    """Principal components [items DIM] of the images, of variance 1 in all."""
    pixels = fashion_mnist("train").image.reshape(-1, 28 * 28).astype(np.float32)
    pixels -= pixels.mean(axis=0)
    _, directions = np.linalg.eigh(pixels.T @ pixels)
    components = pixels @ directions[:, -DIM:]
    return components / np.sqrt(np.mean(np.sum(components**2, axis=1)))


def train(items: jax.Array, steps: int) -> ResidualQuantizer:
    """A quantizer with one codebook for each depth, from k-means clusters on and then by moving averages."""
    config = QuantizerConfig(codebook_size=(64, 64, 64), depth=3, decay=(0.95,), start="kmeans")
    config.check(DIM)
    quantizer = config.init(jax.random.key(0), DIM)

    @jax.jit
    def step(quantizer: ResidualQuantizer, key: jax.Array) -> ResidualQuantizer:
        rows = jax.random.choice(key, len(items), (BATCH,), replace=False)
        return quantizer.encode(items[rows], key, train=True)[1]

    for key in jax.random.split(jax.random.key(1), steps):
        quantizer = step(quantizer, key)
    return quantizer


def main(steps: int = 200) -> dict[str, list[float]]:
    """Prints and returns figures for the first 1, 2 and 3 codes."""
    items = jnp.asarray(embeddings())
    found, _ = jax.jit(ResidualQuantizer.encode, static_argnames="train")(
        train(items, steps), items, jax.random.key(0), train=False
    )
    ids = np.asarray(found.codes)
    some = np.random.default_rng(0).choice(len(items), 1000, replace=False)
    distance = jnp.sum((items[some, None] - items[None]) ** 2, axis=-1).at[jnp.arange(1000), some].set(jnp.inf)
    nearest = np.asarray(jnp.argmin(distance, axis=1))
    counts = [np.unique(ids[:, :d], axis=0, return_counts=True)[1] for d in (1, 2, 3)]
    figures = {
        "error": [float(jnp.mean(jnp.sum((items - partial) ** 2, axis=1))) for partial in found.partial],
        "distinct": [len(count) / len(ids) for count in counts],
        "neighbours": [float(np.mean((ids[some, :d] == ids[nearest, :d]).all(axis=1))) for d in (1, 2, 3)],
        "chance": [float(np.sum((count / len(ids)) ** 2)) for count in counts],
    }
    print(f"{len(items)} items of {DIM} dimensions, 3 codes of 64 each")
    print("codes  error (share of variance)  distinct ids  nearest neighbours with the same id  random pairs")
    for d, row in enumerate(zip(*figures.values(), strict=True)):
        print(f"{d + 1:>5}  {row[0]:>25.3f}  {row[1]:>11.1%}  {row[2]:>35.1%}  {row[3]:>12.3%}")
    return figures


if __name__ == "__main__":
    main()
