"""The objective of an RQ-Transformer: codes or the tokenizer's soft codes (section 3.2.3), and the text."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key, Scalar

from rqjax.interface import Metrics, Quantizer, SoftQuantizer
from rqjax.nets import cross_entropy
from rqjax.rq.network import RQTransformerNetwork


class Target(NamedTuple):
    """The prediction that is asked for: `values`, of which `loss` compares some positions with their logits."""

    values: Array  # [b h w depth ...]
    loss: Callable[[Float[Array, "b n depth codes"], Array], Float[Array, "b n depth"]]


def soft_codes(
    quantizer: SoftQuantizer, residuals: Float[Array, "b h w depth dim"], temperature: float | Scalar
) -> Target:
    """The soft codes of residuals, made when they are compared: they are never held for a whole batch."""

    def loss(logits: Float[Array, "b n depth codes"], residuals: Array) -> Float[Array, "b n depth"]:
        return cross_entropy.soft(logits, quantizer.distribution(residuals, temperature))

    return Target(residuals, loss)


def prior_loss(
    network: RQTransformerNetwork,
    quantizer: Quantizer,
    ids: Int[Array, "b length"],
    codes: Int[Array, "b h w depth"],
    target: Target,
    weights: tuple[float, float],
    chunk: int,
    key: Key[Array, ""] | None,
    counts: Bool[Array, "b"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The loss of the codes and of a text in front of them, by their two weights, and metrics.

    `ids` are the condition's; more than one are a text. The logits of `chunk` positions are held together. Dropout
    with a key. Means are over the images that count, all if that is not said.
    """

    def score(outputs: Array, values: Array) -> Array:
        return target.loss(network.classifier(outputs), values)

    text, outputs = network(ids, rearrange(codes, "b h w d -> b (h w) d"), quantizer, key)
    values = rearrange(target.values, "b h w ... -> b (h w) ...")
    where = None if counts is None else counts[:, None, None]
    by_depth = jnp.mean(cross_entropy.by_chunks(score, chunk, outputs, values), axis=(0, 1), where=where)
    image_loss, depth = jnp.mean(by_depth), codes.shape[-1]
    metrics = {"image_loss": image_loss} | {f"loss_{d + 1}": by_depth[d] for d in range(depth)}
    total = weights[0] * image_loss
    if ids.shape[1] > 1:
        # a chunk of positions of codes holds `depth` times as many logits
        metrics["text_loss"] = _text_loss(network, text, ids, chunk * depth, where)
        total = total + weights[1] * metrics["text_loss"]
    return total, {"loss": total, **metrics}


def _text_loss(network: RQTransformerNetwork, text: Array, ids: Array, chunk: int, where: Array | None) -> Array:
    """The mean cross-entropy of each text token given those before it, pads included."""

    def score(outputs: Array, targets: Array) -> Array:
        return cross_entropy.hard(network.cond_classifier(outputs), targets)

    return jnp.mean(cross_entropy.by_chunks(score, chunk, text[:, :, None], ids[:, 1:, None]), where=where)
