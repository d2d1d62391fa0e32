"""Drawing codes from an RQ-Transformer: one compiled program over preallocated caches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.interface import Quantizer
from rqjax.nets.decoding import Cache, decode, empty_caches, in_compute_dtype, layers_of, prefill
from rqjax.nets.guidance import Guide, branches, guided
from rqjax.nets.sampling import Draws, row_keys
from rqjax.rq.network import RQTransformerNetwork

Carry = tuple[Float[Array, "rows dim"], tuple[Cache, ...]]


@jax.jit
def generate(
    network: RQTransformerNetwork,
    quantizer: Quantizer,
    ids: Int[Array, "b length"],
    prefix: Int[Array, "b given depth"],
    key: Key[Array, ""],
    draws: Draws,
    guide: Guide | None = None,
) -> Int[Array, "b n depth"]:
    """The codes of all positions in raster order: those of `prefix`, then drawn ones.

    `ids` are the condition's, `draws` has one stream for each depth. Each row draws with a key of its own. With a
    `guide` the network sees each image twice, with its condition and without, and one code is drawn for both.
    """
    positions, given, seen = network.pos_emb_hw.shape[0], prefix.shape[1], prefix
    keys = row_keys(key, len(ids))
    if guide is not None:
        ids, seen = branches(ids, guide.null), branches(prefix, prefix)
    rows, length = ids.shape
    layers = layers_of(network.body)
    x = network.prefix(ids, seen, network.vectors(quantizer, seen))
    x, caches = prefill(layers, x, empty_caches(network.body, rows, length + positions - 1))
    draw = _position_sampler(network, quantizer, draws, guide)

    def step(carry: Carry, t: Int[Array, ""]) -> tuple[Carry, Int[Array, "b depth"]]:
        spatial, caches = carry
        codes = draw(spatial, jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, t), t)
        seen = codes[:, None] if guide is None else branches(codes, codes)[:, None]
        x = network.tokens(seen, network.vectors(quantizer, seen)) + network.pos_emb_hw[t]
        # At the last position this result is not used: the cache is one slot short on purpose, and the write is
        # clamped to the last slot, which is never read again.
        x, caches = decode(layers, x, caches, length + t)
        return (x[:, 0], caches), codes

    _, codes = jax.lax.scan(step, (x[:, -1], caches), jnp.arange(given, positions))
    return jnp.concatenate([prefix, rearrange(codes, "n b d -> b n d")], axis=1)


def _position_sampler(
    network: RQTransformerNetwork, quantizer: Quantizer, draws: Draws, guide: Guide | None
) -> Callable[[Float[Array, "rows dim"], Key[Array, "b"], Int[Array, ""]], Int[Array, "b depth"]]:
    """A function that draws the codes of one position from the body's output there, a key for each image, and t."""
    layers, classifier = layers_of(network.head), in_compute_dtype(network.classifier, network.classifier.dtype)
    depth = network.pos_emb_d.shape[0]

    def draw(spatial: Float[Array, "rows dim"], keys: Key[Array, "b"], t: Int[Array, ""]) -> Int[Array, "b depth"]:
        caches = empty_caches(network.head, spatial.shape[0], depth)
        x, codes = spatial.astype(jnp.float32), jnp.zeros((len(keys), 0), jnp.int32)
        for d in range(depth):
            x, caches = decode(layers, (x + network.pos_emb_d[d])[:, None], caches, d)
            subkeys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, d)
            logits = classifier.at(x[:, 0], d)
            logits = logits if guide is None else guided(logits, guide.scales[t, d])
            codes = jnp.concatenate([codes, draws.draw(d, subkeys, logits)[:, None]], axis=1)
            if d + 1 < depth:
                seen = codes[:, None] if guide is None else branches(codes, codes)[:, None]
                x = network.context(seen, network.vectors(quantizer, seen))[:, 0, -1]
        return codes

    return draw
