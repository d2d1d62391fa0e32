"""The cross-entropies of a DQ-Transformer: of positions by grain, and of contents (Huang et al. 2023, section 3.2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from rqjax.dq.network import DQTransformerNetwork
from rqjax.dq.router import NAMES
from rqjax.dq.sequence import Rows
from rqjax.interface import Metrics
from rqjax.nets import cross_entropy


def weighted(
    network: DQTransformerNetwork,
    rows: Rows,
    key: Key[Array, ""] | None,
    *,
    grains: int,
    chunk: int,
    weights: tuple[float, float],
) -> tuple[Float[Array, ""], Metrics]:
    """The sum of the loss of contents and of the mean over grains of that of positions, by two weights; and metrics."""
    by_grain, content = cross_entropies(network, rows, grains, chunk, key)
    position = jnp.mean(by_grain)
    total = weights[0] * content + weights[1] * position
    return total, {
        "loss": total,
        "content_loss": content,
        "position_loss": position,
        **{f"{name}_position_loss": by_grain[g] for g, name in enumerate(NAMES[grains])},
        "padding": jnp.mean((~rows.filled).astype(jnp.float32)),
    }


def cross_entropies(
    network: DQTransformerNetwork, rows: Rows, grains: int, chunk: int, key: Key[Array, ""] | None
) -> tuple[Float[Array, "grains"], Float[Array, ""]]:
    """The mean cross-entropies of each grain's positions, and that of all contents; dropout with a key.

    Every token counts but the first of an image, so the start of every grain but the first is among them. The logits
    of at most `chunk` tokens of a row are held at a time, which changes no result.
    """
    positions, contents = network(rows.tokens, rows.image, key, rows.texts)
    following = jax.tree.map(lambda x: x[:, 1:], rows.tokens)
    counts = (rows.image[:, 1:] == rows.image[:, :-1]) & rows.filled[:, 1:]

    def score(positions: Array, contents: Array, position: Array, content: Array) -> Array:
        losses = cross_entropy.hard(network.position_head(positions), position)
        return jnp.stack([losses, cross_entropy.hard(network.content_head(contents), content)], axis=-1)

    losses = cross_entropy.by_chunks(score, chunk, positions, contents, following.position, following.content)
    by_grain = [_mean(losses[..., 0], counts & (following.grain == g)) for g in range(grains)]
    return jnp.stack(by_grain), _mean(losses[..., 1], counts)


def _mean(losses: Float[Array, "rows n"], counts: Bool[Array, "rows n"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(counts, losses, 0.0)) / jnp.maximum(jnp.sum(counts), 1)
