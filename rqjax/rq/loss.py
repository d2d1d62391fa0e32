"""What an RQ-Transformer is trained for: codes, or the tokenizer's soft codes (section 3.2.3), and the text."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.nets import cross_entropy
from rqjax.quantize.residual import Codebooks
from rqjax.rq.vae import RQVAE

Labels = Int[Array, "b"] | Int[Array, "b length"]


def loss(
    model: Any,
    network: Any,
    tokenizer: RQVAE,
    image: Float[Array, "b height width 3"],
    labels: Labels,
    key: Key[Array, ""],
    train: bool,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The weighted loss of images in [-1, 1] and metrics; differentiable in `network`, the tokenizer is frozen.

    Soft targets are recomputed from residuals for a few positions at a time: they are never held for a whole batch.
    The codes that the network reads are drawn from them, if the model is stochastic. Dropout only with `train`.
    """
    draw, drop = jax.random.split(key)
    drop = drop if train else None
    if model.target == "hard" and not model.stochastic:
        return loss_from_codes(model, network, tokenizer.codebooks, tokenizer.encode(image), labels, key=drop)
    codes, residuals = tokenizer.sample_codes(image, draw, model.temperature, model.stochastic, model.loss_chunk)
    if model.target == "hard":
        return loss_from_codes(model, network, tokenizer.codebooks, codes, labels, key=drop)

    def score(outputs: Array, residuals: Array) -> Array:
        return cross_entropy.soft(network.classifier(outputs), _distribution(model, tokenizer, residuals))

    return _loss(model, network, tokenizer.codebooks, codes, labels, score, residuals, drop)


def _distribution(model: Any, tokenizer: RQVAE, residuals: Float[Array, "b n depth dim"]) -> Array:
    """Soft targets [b n depth vocab], with zeros for the codes that a depth does not have."""
    if len(tokenizer.codebooks) == 1:
        return tokenizer.soft_targets(residuals, 0, model.temperature)
    by_depth = [tokenizer.soft_targets(residuals[:, :, d], d, model.temperature) for d in range(model.depth)]
    padded = [jnp.pad(x, [(0, 0), (0, 0), (0, max(model.sizes) - x.shape[-1])]) for x in by_depth]
    return jnp.stack(padded, axis=2)


def loss_from_codes(
    model: Any,
    network: Any,
    codebooks: Codebooks,
    codes: Int[Array, "b h w depth"],
    labels: Labels,
    soft: Float[Array, "b h w depth vocab"] | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The weighted loss of given codes, against themselves or against the distributions `soft`, and metrics.

    Dropout only with a key.
    """
    measure = cross_entropy.hard if soft is None else cross_entropy.soft

    def score(outputs: Array, targets: Array) -> Array:
        return measure(network.classifier(outputs), targets)

    return _loss(model, network, codebooks, codes, labels, score, codes if soft is None else soft, key)


def _loss(
    model: Any,
    network: Any,
    codebooks: Codebooks,
    codes: Array,
    labels: Array,
    score: Callable[[Array, Array], Array],
    targets: Array,
    key: Array | None,
) -> tuple[Array, dict[str, Any]]:
    text, outputs = model.outputs(network, codebooks, codes, labels, key)
    targets = rearrange(targets, "b h w ... -> b (h w) ...")
    by_depth = jnp.mean(cross_entropy.by_chunks(score, model.loss_chunk, outputs, targets), axis=(0, 1))
    image_loss = jnp.mean(by_depth)
    metrics = {"image_loss": image_loss} | {f"loss_{d + 1}": by_depth[d] for d in range(model.depth)}
    total = model.image_loss_weight * image_loss
    if model.text_vocab:
        metrics["text_loss"] = _text_loss(model, network, text, labels)
        total = total + model.text_loss_weight * metrics["text_loss"]
    return total, {"loss": total, **metrics}


def _text_loss(model: Any, network: Any, text: Array, labels: Array) -> Array:
    """Each text token from those before it, pads included."""

    def score(outputs: Array, targets: Array) -> Array:
        return cross_entropy.hard(network.cond_classifier(outputs), targets)

    # a chunk of positions of codes holds `depth` times as many logits
    chunk = model.loss_chunk * model.depth
    return jnp.mean(cross_entropy.by_chunks(score, chunk, text[:, :, None], labels[:, 1:, None]))
