"""Drawing codes from an RQ-Transformer: one compiled program over preallocated caches."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.interface import Quantizer
from rqjax.nets.decoding import (
    Caches,
    decode,
    empty_caches,
    in_compute_dtype,
    layers_of,
    lengthened,
    prefill,
    stretches,
)
from rqjax.nets.guidance import Guide, branches, guided
from rqjax.nets.sampling import Draws, row_keys
from rqjax.nets.transformer import Index
from rqjax.rq.network import RQTransformerNetwork

Carry = tuple[Float[Array, "rows dim"], Caches]
Inner = tuple[Float[Array, "rows dim"], Caches, Int[Array, "b depth"]]
Known = Int[Array, "b depth"] | None
PositionSampler = Callable[[Float[Array, "rows dim"], Key[Array, "b"], Int[Array, ""], Known], Int[Array, "b depth"]]

SMALL_HEAD = 2**20
"""Numbers of a head below which the loop over depths is compiled once. For a larger one its steps stand one by one:
that takes longer to compile, and draws faster.
"""


@jax.jit
def generate(
    network: RQTransformerNetwork,
    quantizer: Quantizer,
    ids: Int[Array, "b length"],
    given: Int[Array, "b n depth"] | None,
    key: Key[Array, ""] | Key[Array, "b"],
    draws: Draws,
    guide: Guide | None = None,
) -> Int[Array, "b n depth"]:
    """The codes of all positions in raster order: those of `given`, and drawn ones where it has -1 or is None.

    `ids` are the condition's, `draws` has one stream for each depth. Each row draws with a key of its own. With a
    `guide` the network sees each image twice, with its condition and without, and one code is drawn for both.
    """
    positions, keys = network.pos_emb_hw.shape[0], row_keys(key, len(ids))
    if guide is not None:
        ids = branches(ids, guide.null)
    rows, length = ids.shape
    layers, led = layers_of(network.body), network.led_by(ids)
    before, parts = length - 1, stretches(positions)
    caches = empty_caches(network.body, rows, before + positions, before + parts[0][1])
    if before > 0:
        _, caches = prefill(layers, led[:, :-1], caches)
    draw = _position_sampler(network, quantizer, draws, guide)

    def step(visible: int, carry: Carry, t: Int[Array, ""]) -> tuple[Carry, Int[Array, "b depth"]]:
        x, caches = carry
        spatial, caches = decode(layers, x[:, None], caches, before + t, visible)
        known = None if given is None else given[:, t]
        codes = draw(spatial[:, 0], jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, t), t, known)
        seen = codes[:, None] if guide is None else branches(codes, codes)[:, None]
        x = network.tokens(seen, network.vectors(quantizer, seen)) + network.pos_emb_hw[t]
        return (x[:, 0].astype(jnp.float32), caches), codes

    carry, drawn = (led[:, -1].astype(jnp.float32), caches), []
    for first, end in parts:
        carry = carry[0], lengthened(network.body, carry[1], before + end)
        carry, codes = jax.lax.scan(functools.partial(step, before + end), carry, jnp.arange(first, end))
        drawn.append(codes)
    return rearrange(jnp.concatenate(drawn), "n b d -> b n d")


def _position_sampler(
    network: RQTransformerNetwork, quantizer: Quantizer, draws: Draws, guide: Guide | None
) -> PositionSampler:
    """A function that draws the codes of one position from the body's output there, a key for each image, and t. It
    keeps those that are known, unless they are -1.
    """
    layers, classifier = layers_of(network.head), in_compute_dtype(network.classifier, network.classifier.dtype)
    depth = network.pos_emb_d.shape[0]

    def step(
        keys: Key[Array, "b"], t: Int[Array, ""], known: Known, carry: Inner, d: Index
    ) -> tuple[Inner, Int[Array, "b"]]:
        x, caches, codes = carry
        x, caches = decode(layers, (x + network.pos_emb_d[d])[:, None], caches, d, depth)
        logits = classifier.at(x[:, 0], d)
        logits = logits if guide is None else guided(logits, guide.scales[t, d])
        code = draws.draw(d, jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, d), logits)
        code = code if known is None else jnp.where(known[:, d] < 0, code, known[:, d])
        codes = codes.at[:, d].set(code)
        seen = codes[:, None] if guide is None else branches(codes, codes)[:, None]
        seen = seen[..., : d + 1] if isinstance(d, int) else seen  # what lies behind d changes nothing at d
        x = network.context(seen, network.vectors(quantizer, seen))[:, 0, d].astype(jnp.float32)
        return (x, caches, codes), code

    def draw(
        spatial: Float[Array, "rows dim"], keys: Key[Array, "b"], t: Int[Array, ""], known: Known
    ) -> Int[Array, "b depth"]:
        caches = empty_caches(network.head, spatial.shape[0], depth)
        carry = spatial.astype(jnp.float32), caches, jnp.zeros((len(keys), depth), jnp.int32)
        one = functools.partial(step, keys, t, known)
        if sum(x.size for x in jax.tree.leaves(network.head)) < SMALL_HEAD:
            return jax.lax.scan(one, carry, jnp.arange(depth))[0][2]
        for d in range(depth):
            carry, _ = one(carry, d)
        return carry[2]

    return draw
