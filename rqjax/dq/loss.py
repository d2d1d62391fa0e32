"""The loss of a DQ-Transformer: sequences in rows, padded or packed, and a cross-entropy per stream."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.dq import packing
from rqjax.dq.router import NAMES
from rqjax.dq.sequence import SequenceLayout, Tokens, join, to_streams
from rqjax.errors import InputError
from rqjax.mesh import constrain, shards
from rqjax.nets import cross_entropy
from rqjax.quantize.dynamic import Codes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Tokens as the network reads them, one image in a row or several."""

    content: Any  # Int[rows n]
    position: Any  # Int[rows n]
    grain: Any  # Int[rows n]
    index: Any  # Int[rows n], of the token in its image's sequence
    image: Any  # Int[rows n], -1 in empty slots
    unplaced: Any  # Int[], how many images found no row


def to_tokens(codes: Codes, labels: Int[Array, "b"], layout: SequenceLayout) -> Tokens:
    """The sequences of images, each led by its label."""
    return join(to_streams(codes.codes, codes.grain, layout), labels, layout)


def padded(tokens: Tokens) -> Rows:
    """One image a row; pads follow its last token."""
    batch, length = tokens.content.shape
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    image = jnp.where(index < tokens.length[:, None], 0, -1)
    return Rows(tokens.content, tokens.position, tokens.grain, index, image, jnp.zeros((), jnp.int32))


def row_count(images: int, longest: int, row_length: int, rows_per_image: float) -> int:
    """How many rows `images` images share: as many as asked for, but no more than can be needed."""
    return min(math.ceil(images * rows_per_image), packing.sufficient_rows(images, longest, row_length))


def packed(tokens: Tokens, layout: SequenceLayout, groups: int, row_length: int, rows_per_image: float) -> Rows:
    """Several images a row. Each of `groups` equal parts of the batch fills rows of its own.

    With the batch split over a mesh, groups in a multiple of its data axis keep every image on its device. Raises
    InputError if `groups` does not divide the batch, or is no such multiple.
    """
    batch, length = tokens.content.shape
    if batch % groups:
        raise InputError(f"pack_groups={groups} does not divide a batch of {batch}: choose a divisor")
    if groups % (parts := shards(jax.sharding.get_abstract_mesh())):
        raise InputError(f"pack_groups={groups} for {parts} data shards: choose a multiple of their number")
    rows = row_count(batch // groups, length, row_length, rows_per_image)

    def pack(tokens: Tokens) -> Rows:
        found = packing.pack(tokens.length, rows, row_length)
        fills = (layout.content_pad, layout.position_pad[-1], len(layout.grids) - 1)
        streams = (tokens.content, tokens.position, tokens.grain)
        content, position, grain = (packing.gather(found, x, fill) for x, fill in zip(streams, fills, strict=True))
        image = jnp.where(found.filled, found.sequence, -1)
        return Rows(content, position, grain, found.index, image, jnp.sum(~found.placed, dtype=jnp.int32))

    split = jax.tree.map(lambda x: rearrange(x, "(g n) ... -> g n ...", g=groups), tokens)
    parts = jax.vmap(pack)(jax.tree.map(lambda x: constrain(x, "data"), split))
    whole = {name: rearrange(getattr(parts, name), "g r n -> (g r) n") for name in _SLOTS}
    whole = {name: constrain(x, "data", None) for name, x in whole.items()}
    return Rows(**whole, unplaced=jnp.sum(parts.unplaced))


_SLOTS = ("content", "position", "grain", "index", "image")


def to_rows(model: Any, codes: Codes, labels: Int[Array, "b"]) -> Rows:
    """The rows that a model trains on."""
    tokens = to_tokens(codes, model.conditions(labels), model.layout)
    if not model.pack:
        return padded(tokens)
    return packed(tokens, model.layout, model.pack_groups, model.row_length, model.rows_per_image)


def loss_from_rows(
    model: Any, network: Any, rows: Rows, key: Key[Array, ""] | None
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The weighted sum of the content loss and the position loss, and metrics.

    The content loss is the mean cross-entropy of all tokens but the first of an image. The position loss is the mean
    over grains of the mean cross-entropy of that grain's tokens, among which the start of every grain but the first.
    """
    positions, contents = network(rows.content, rows.position, rows.grain, rows.index, rows.image, key)
    target = jax.tree.map(lambda x: x[:, 1:], (rows.position, rows.content))
    counts = (rows.image[:, 1:] == rows.image[:, :-1]) & (rows.image[:, 1:] >= 0)

    def score(positions: Array, contents: Array, position: Array, content: Array) -> Array:
        losses = cross_entropy.hard(network.position_head(positions), position)
        return jnp.stack([losses, cross_entropy.hard(network.content_head(contents), content)], axis=-1)

    losses = cross_entropy.by_chunks(score, model.loss_chunk, positions, contents, *target)
    names, grain = NAMES[len(model.layout.grids)], rows.grain[:, 1:]
    by_grain = [_mean(losses[..., 0], counts & (grain == g)) for g in range(len(names))]
    position, content = jnp.mean(jnp.stack(by_grain)), _mean(losses[..., 1], counts)
    total = model.content_loss_weight * content + model.position_loss_weight * position
    metrics = {
        "loss": total,
        "content_loss": content,
        "position_loss": position,
        **{f"{name}_position_loss": value for name, value in zip(names, by_grain, strict=True)},
        "padding": jnp.mean((rows.image < 0).astype(jnp.float32)),
        "unplaced": rows.unplaced.astype(jnp.float32),
    }
    return total, metrics


def _mean(losses: Array, counts: Array) -> Array:
    return jnp.sum(jnp.where(counts, losses, 0.0)) / jnp.maximum(jnp.sum(counts), 1)
