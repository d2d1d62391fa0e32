"""Drawing codes of several grains from a DQ-Transformer: one compiled loop over preallocated caches.

All images start with the start token of their condition, and each then follows its own sequence: the token at step t
has index t in its image whatever grain that has reached. So no image is padded for another's sake, and none depends on
the others.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key

from rqjax.dq import given as known
from rqjax.dq import positions
from rqjax.dq.network import DQTransformerNetwork, Head
from rqjax.dq.sequence import Rows, SequenceLayout, Tokens
from rqjax.nets.decoding import Caches, Layers, decode, empty_caches, in_compute_dtype, layers_of, lengthened, stretches
from rqjax.nets.guidance import Guide, branches, guided
from rqjax.nets.sampling import Draws, row_keys
from rqjax.nets.transformer import Context
from rqjax.quantize.dynamic import Codes
from rqjax.quantize.pytree import pytree

STREAMS = ("contents", "positions")
"""The parts of a token, which are drawn with settings of their own: first the contents', then the positions'."""
CONTENTS, POSITIONS = range(2)


@pytree
@dataclasses.dataclass(frozen=True)
class State:
    """The state of the loop: the sequences so far, the maps of the codes they describe, and both stacks' caches."""

    t: Int[Array, ""]  # the index of the newest token
    rows: Rows  # [b capacity]
    done: Bool[Array, "b"]
    codes: Int[Array, "b cells"]  # on the finest grid
    grain: Int[Array, "b cells"]  # of each code; -1 where no token covers the cell yet
    caches: tuple[Caches, Caches]

    @property
    def free(self) -> Bool[Array, "b cells"]:
        """The cells that no token covers yet."""
        return self.grain < 0


Loop = tuple[Int[Array, ""], State]
"""The tokens that a stretch of the loop has drawn, and the state."""


@functools.partial(jax.jit, static_argnames="layout")
def generate(
    network: DQTransformerNetwork,
    layout: SequenceLayout,
    starts: Int[Array, "b"],
    key: Key[Array, ""] | Key[Array, "b"],
    draws: Draws,
    fixed_positions: Bool[Array, ""],
    limit: Int[Array, ""],
    guide: Guide | None = None,
    given: Codes | None = None,
    texts: Int[Array, "b length"] | None = None,
) -> tuple[Rows, Codes]:
    """New sequences, one for each of `starts`, ids of the condition, and the codes that they describe.

    Every cell belongs to exactly one token. The positions of coarser grains are drawn; those of the finest are all that
    is left, in the order of the layout, or with `fixed_positions` False drawn as well. Each image draws with a key of
    its own. `limit` stops after so many tokens, with cells that no token covers: they have code 0 and grain 0. New
    values compile nothing; another batch size does. With a `guide` the network sees each image twice, with its
    condition and without, and one token is drawn for both. Regions and codes of `given` are kept, where it has no -1.
    A network that is led by `texts` gets them here; their start token is 0.
    """
    limit = jnp.minimum(limit, layout.capacity)
    keys = row_keys(key, starts.shape[0])
    parts = _unrolled(network, _context(network, texts, guide))
    step = functools.partial(_step, layout, parts, starts, keys, draws, fixed_positions, guide, given)

    def going(most: int, carry: Loop) -> Bool[Array, ""]:
        tokens, state = carry
        return (tokens < most) & (state.t < limit - 1) & ~jnp.all(state.done)

    def one_more(end: int, carry: Loop) -> Loop:
        tokens, state = carry
        return tokens + 1, step(end, state)

    state = start(layout, network, starts, 1 if guide is None else 2)
    for first, end in stretches(layout.capacity - 1):
        # a counter from 0 to a constant, so that rqjax.cost sees how long the loop may run
        more, body = functools.partial(going, end - first), functools.partial(one_more, end)
        by_position, by_content = state.caches
        by_position = lengthened(network.position_stack, by_position, end)
        by_content = lengthened(network.content_stack, by_content, end)
        state = dataclasses.replace(state, caches=(by_position, by_content))
        _, state = jax.lax.while_loop(more, body, (jnp.int32(0), state))
    rows = state.rows if texts is None else dataclasses.replace(state.rows, texts=texts[:, None])
    return rows, codes_of(layout, state)


def codes_of(layout: SequenceLayout, state: State) -> Codes:
    """The codes that the sequences of a state describe; 0 and grain 0 where no token covers a cell."""
    codes, grain = (rearrange(x, "b (h w) -> b h w", h=layout.grids[-1]) for x in (state.codes, state.grain))
    block = layout.grids[-1] // layout.grids[0]
    return Codes(codes=codes, grain=jnp.maximum(grain[:, ::block, ::block], 0))


def start(layout: SequenceLayout, network: DQTransformerNetwork, starts: Int[Array, "b"], seen: int = 1) -> State:
    """The state before the first step: each image has its start token, and every cell is free. The network sees each
    image `seen` times.
    """
    batch, length = starts.shape[0], layout.capacity
    pads, cells = jnp.zeros((batch, length), jnp.int32), jnp.zeros((batch, layout.cells[-1]), jnp.int32)
    first = stretches(length - 1)[0][1]
    tokens = Tokens(
        content=(pads + layout.content_pad).at[:, 0].set(starts + layout.content_start),
        position=(pads + layout.position_pad[-1]).at[:, 0].set(starts + layout.position_start[0]),
        grain=(pads + layout.grains - 1).at[:, 0].set(0),
        index=pads + jnp.arange(length, dtype=jnp.int32),
    )
    return State(
        t=jnp.int32(0),
        rows=Rows(tokens=tokens, image=(pads - 1).at[:, 0].set(0)),
        done=jnp.zeros(batch, bool),
        codes=cells,
        grain=cells - 1,
        # nothing follows the last token, so the caches have no place for it
        caches=(
            empty_caches(network.position_stack, seen * batch, length - 1, first),
            empty_caches(network.content_stack, seen * batch, length - 1, first),
        ),
    )


class _Unrolled(NamedTuple):
    """A network with its layers apart and its weights in the compute dtype, made once before the loop."""

    network: DQTransformerNetwork
    position_layers: Layers
    content_layers: Layers
    position_head: Head
    content_head: Head


def _context(
    network: DQTransformerNetwork, texts: Int[Array, "b length"] | None, guide: Guide | None
) -> Context | None:
    """The features of texts, encoded once for all tokens: with guidance also those of no text."""
    if texts is None:
        return None
    seen = texts if guide is None else branches(texts, guide.null)
    return network.context(seen[:, None], jnp.zeros((len(seen), 1), jnp.int32))


def _unrolled(network: DQTransformerNetwork, context: Context | None) -> _Unrolled:
    return _Unrolled(
        network,
        layers_of(network.position_stack, context),
        layers_of(network.content_stack, context),
        in_compute_dtype(network.position_head, network.position_head.dtype),
        in_compute_dtype(network.content_head, network.content_head.dtype),
    )


def _step(
    layout: SequenceLayout,
    parts: _Unrolled,
    starts: Int[Array, "b"],
    keys: Key[Array, "b"],
    draws: Draws,
    fixed: Bool[Array, ""],
    guide: Guide | None,
    given: Codes | None,
    visible: int,
    state: State,
) -> State:
    """One more token for each image that is not done: its position, then its content. The first `visible` are read."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, state.t)
    keys = jax.vmap(functools.partial(jax.random.split, num=2))(keys)
    last = jax.tree.map(lambda ids: ids[:, state.t], state.rows.tokens)

    x = parts.network.embed(last if guide is None else _both(layout, last, guide))
    x, first = decode(parts.position_layers, x[:, None], state.caches[0], state.t, visible)
    allowed = positions.allowed(layout, state.free, last.grain)
    if given is not None:
        allowed = known.kept_to(layout, allowed, state.free, last.grain, given.grain)
    logits = _mixed(parts.position_head(x[:, 0]), guide, state.t, POSITIONS)
    drawn = draws.draw(POSITIONS, keys[:, 0], _only(allowed, logits))
    left = positions.remaining(layout, state.free)
    drawn = jnp.where(fixed & (last.grain == layout.grains - 1), left, drawn)
    position, grain = positions.follow(layout, last.position, last.grain, drawn, starts)

    next_to = Tokens(content=last.content, position=position, grain=grain, index=last.index)
    places = next_to if guide is None else _both(layout, next_to, guide)
    x = x[:, 0].astype(jnp.float32) + parts.network.places(places.position, places.grain)
    x, second = decode(parts.content_layers, x[:, None], state.caches[1], state.t, visible)
    logits = _mixed(parts.content_head(x[:, 0]), guide, state.t, CONTENTS)
    drawn = draws.draw(CONTENTS, keys[:, 1], _only(jnp.arange(logits.shape[-1]) < layout.codebook_size, logits))
    if given is not None:
        drawn = known.known_or(layout, drawn, position, grain, given.codes)
    content = positions.contents(layout, position, grain, drawn, starts)
    token = Tokens(content=content, position=position, grain=grain, index=jnp.full_like(grain, state.t + 1))
    return write(layout, state, token, (first, second))


def _both(layout: SequenceLayout, tokens: Tokens, guide: Guide) -> Tokens:
    """Tokens [b] as both branches of guidance see them [2b]: the second with start tokens of no condition."""
    if layout.starts == 1:  # texts lead images: both branches have the same tokens
        return jax.tree.map(lambda ids: branches(ids, ids), tokens)
    without = positions.led_by(layout, tokens, guide.null[:, 0])
    return jax.tree.map(branches, tokens, without)


def _mixed(
    logits: Float[Array, "rows ids"], guide: Guide | None, t: Int[Array, ""], stream: int
) -> Float[Array, "b ids"]:
    """The logits of each image for its token behind index t."""
    return logits if guide is None else guided(logits, guide.scales[t, stream])


def _only(allowed: Bool[Array, "b ids"] | Bool[Array, "ids"], logits: Float[Array, "b ids"]) -> Float[Array, "b ids"]:
    return jnp.where(allowed, logits, -jnp.inf)


def write(layout: SequenceLayout, state: State, token: Tokens, caches: tuple[Caches, Caches]) -> State:
    """The state with one more token [b] for each image that is not done."""
    t, done = state.t + 1, state.done
    covers = positions.covered(layout, token) & ~done[:, None]

    def put(old: Int[Array, "b capacity"], new: Int[Array, "b"]) -> Int[Array, "b capacity"]:
        return old.at[:, t].set(jnp.where(done, old[:, t], new))

    return State(
        t=t,
        rows=Rows(
            tokens=jax.tree.map(put, state.rows.tokens, token),
            image=put(state.rows.image, jnp.zeros_like(token.index)),
        ),
        done=done | ((token.grain == layout.grains - 1) & (token.position == layout.position_end[-1])),
        codes=jnp.where(covers, token.content[:, None], state.codes),
        grain=jnp.where(covers, token.grain[:, None], state.grain),
        caches=caches,
    )
