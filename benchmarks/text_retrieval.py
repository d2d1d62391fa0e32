"""How often a picture that a prior drew for a held-out caption is told apart from others by that caption.

    PYTHONPATH=. .venv/bin/python benchmarks/text_retrieval.py PRIOR --data data/emoji [--guidance 3] [--top_p 0.9]

An image-text scorer is trained here on the real pairs of the "train" split: three convolutions and a mean of tokens'
vectors, brought together by the contrastive loss of CLIP (Radford et al. 2021). The prior draws images for each
caption of the "validation" split, which neither has seen. Recall@1 of 32: the share of images whose own caption scores
best among 32, itself and 31 other held-out ones; chance is 1/32. The scorer judges the real held-out pictures beside
them, and real pictures of other captions, which must come out near chance. Standard errors are over captions.
Prints a table and asserts nothing.
"""

import argparse
import math
import sys
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import rqjax
from rqjax import data
from rqjax.api import LoadedPrior
from rqjax.data import DataConfig
from rqjax.data.images import to_float
from rqjax.data.text import Vocabulary
from rqjax.nets.classifier import Network
from rqjax.nets.init import Rngs

AMONG = 32
"""Captions of a choice."""
BATCH, SHIFT, KEPT = 192, 4, 0.8
"""Of the scorer's training: pairs a step, pixels that images move at most, the share of tokens that is read."""
Rows: TypeAlias = jax.Array | np.ndarray


class Pairs(NamedTuple):
    """Images, the token ids of their captions, and the captions."""

    images: np.ndarray
    tokens: np.ndarray
    captions: list[str]


class Scorer(nnx.Module):
    """Images and captions to vectors of length 1; the cosine between them is the score."""

    def __init__(self, tokens: int, width: int, dim: int, *, rngs: nnx.Rngs):
        self.image = Network(width, dim, rngs=rngs)
        self.words = nnx.Embed(tokens, dim, rngs=rngs)
        self.scale = nnx.Param(jnp.log(10.0))

    def of_images(self, images: Rows) -> Rows:
        return _unit(self.image(to_float(images)))

    def of_texts(self, tokens: Rows, kept: Any = 1.0) -> Rows:
        there = ((tokens > 0) * kept)[..., None]  # 0 is padding
        return _unit(jnp.sum(self.words(jnp.asarray(tokens)) * there, 1) / (jnp.sum(there, 1) + 1e-6))

    def loss(self, images: Rows, tokens: Rows, key: jax.Array) -> Rows:
        """The contrastive loss, both ways; pairs of the same caption count as each other's."""
        shift, drop = jax.random.split(key)
        y, x = jax.random.randint(shift, (2,), 0, 2 * SHIFT + 1)
        padded = jnp.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), constant_values=255)
        moved = jax.lax.dynamic_slice(padded, (0, y, x, 0), images.shape)
        kept = jax.random.bernoulli(drop, KEPT, tokens.shape)
        logits = jnp.exp(self.scale[...]) * self.of_images(moved) @ self.of_texts(tokens, kept).T
        same = jnp.all(tokens[:, None] == tokens[None], -1).astype(jnp.float32)
        targets = same / jnp.sum(same, 1, keepdims=True)
        return jnp.mean(sum(optax.softmax_cross_entropy(way, targets) for way in (logits, logits.T)) / 2)


def _unit(x: Rows) -> Rows:
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)  # a slope also at 0, where no token was read


def trained(pairs: Pairs, tokens: int, epochs: int) -> Scorer:
    """A scorer of real pairs."""
    scorer: Any = Scorer(tokens, width=32, dim=128, rngs=Rngs(jax.random.key(0)))
    generator, per_epoch = np.random.default_rng(0), len(pairs.images) // BATCH
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(epochs * per_epoch, 3e-3), weight_decay=0.1)
    state = optimizer.init(scorer)

    @jax.jit
    def step(scorer: Any, state: Any, images: Any, ids: Any, key: Any) -> tuple[Any, Any]:
        slope = jax.grad(Scorer.loss)(scorer, images, ids, key)
        change, state = optimizer.update(slope, state, scorer)
        return optax.apply_updates(scorer, change), state

    for key in jax.random.split(jax.random.key(1), epochs):
        order = generator.permutation(len(pairs.images))[: per_epoch * BATCH].reshape(per_epoch, BATCH)
        for k, rows in enumerate(order):
            scorer, state = step(scorer, state, pairs.images[rows], pairs.tokens[rows], jax.random.fold_in(key, k))
    return scorer


def recall(scorer: Scorer, images: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Recall@1 for each caption, which has equally many images in a row: the mean share of choices of AMONG captions,
    the image's own and others, in which its own scores best.

    Exact: if k of the others score at least as well, it is the share of choices without any of these.
    """
    score = np.asarray(scorer.of_images(images) @ scorer.of_texts(tokens).T)
    if not np.isfinite(score).all():
        sys.exit("the scorer's scores are not finite: train it for fewer epochs")
    own = np.arange(len(images)) * len(tokens) // len(images)
    better = np.sum(score >= score[np.arange(len(images)), own, None], axis=1) - 1
    others = len(tokens) - 1
    found = [math.comb(others - int(k), AMONG - 1) / math.comb(others, AMONG - 1) for k in better]
    return np.mean(np.reshape(found, (len(tokens), -1)), axis=1)


def pairs_of(folder: str, split: str, side: int, vocabulary: Vocabulary, length: int) -> Pairs:
    """All images of a split with their captions."""
    config = DataConfig(name="captions", path=folder, split=split, resize=side, size=side, batch=64, threads=1)
    stream = data.examples(config)
    parts = list(stream)
    captions = [stream.source[i]["caption"] for part in parts for i in part["index"].tolist()]
    ids = np.stack([vocabulary.ids(caption, length) for caption in captions])
    return Pairs(np.concatenate([part["image"] for part in parts]), ids, captions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="the run directory of a prior that is led by captions")
    parser.add_argument("--data", required=True, help="images with captions, a list for each split")
    for name, value in {"guidance": 3.0, "top_p": 0.9, "temperature": 1.0}.items():
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--epochs", type=int, default=20, help="of the scorer's training")
    parser.add_argument("--count", type=int, default=4, help="images of each caption (4)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    prior = rqjax.load(given.prior)
    vocabulary = prior.run.vocabulary if isinstance(prior, LoadedPrior) else None
    if not isinstance(prior, LoadedPrior) or vocabulary is None:
        sys.exit(f"{given.prior} is no prior that keeps a vocabulary: give one that was trained on captions")
    length = prior.config.data.text_length
    real, held_out = (
        pairs_of(given.data, split, prior.resolution, vocabulary, length) for split in ("train", "validation")
    )
    scorer = trained(real, len(vocabulary), given.epochs)
    settings = {name: getattr(given, name) for name in ("guidance", "top_p", "temperature", "count", "seed")}
    drawn = prior.generate(texts=held_out.captions, **settings)
    images = {
        "real pictures": held_out.images,
        "drawn by the prior": drawn.images,
        "real pictures of other captions": np.random.default_rng(0).permutation(held_out.images),
    }
    table = Table("images", f"recall@1 of {AMONG}", "standard error", "times chance")
    for name, pixels in images.items():
        found = recall(scorer, pixels, held_out.tokens)
        error = np.std(found) / len(found) ** 0.5
        table.add_row(name, f"{np.mean(found):.1%}", f"{error:.1%}", f"{np.mean(found) * AMONG:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
