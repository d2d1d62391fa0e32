"""Drawing codes of several grains from a DQ-Transformer: one compiled loop over preallocated caches.

All images start with the same token, and each then follows its own sequence: the token at step t has index t in its
image whatever grain that has reached. So no image is padded for another's sake, and none depends on the others.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Int, Key

from rqjax.dq import positions as dqpositions
from rqjax.dq.sequence import SequenceLayout, Tokens
from rqjax.errors import InputError
from rqjax.nets.sampling import sample
from rqjax.nets.transformer import decode, in_compute_dtype
from rqjax.quantize.dynamic import Codes
from rqjax.rq.sample import SamplingOptions

Settings = tuple[Any, Any, Any]
"""Temperature, top_k and top_p of one stream, as arrays."""


@dataclasses.dataclass(kw_only=True)
class DQSamplingOptions:
    """How contents are drawn, and how positions are.

    Temperature 0 takes the likeliest. `top_k` None and `top_p` 1 filter nothing. The published samples have a top_k of
    300.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    position_temperature: float = 1.0
    position_top_k: int | None = None
    position_top_p: float = 1.0

    def arrays(self) -> tuple[Settings, Settings]:
        """The settings of positions and of contents. Raises InputError for values that cannot be used."""
        return self._arrays("position_"), self._arrays("")

    def _arrays(self, stream: str) -> Settings:
        temperature, top_k, top_p = (getattr(self, stream + name) for name in ("temperature", "top_k", "top_p"))
        if not temperature >= 0:
            raise InputError(f"{stream}temperature is {temperature}: expected 0 (greedy) or more")
        if top_k is not None and top_k < 1:
            raise InputError(f"{stream}top_k is {top_k}: expected at least 1, or None to keep everything")
        if not top_p > 0:
            raise InputError(f"{stream}top_p is {top_p}: expected a number above 0, up to 1")
        largest = np.iinfo(np.int32).max if top_k is None else top_k
        return jnp.float32(temperature), jnp.int32(largest), jnp.float32(top_p)


def generate(
    model: Any,
    labels: Int[Array | np.ndarray, "b"],
    key: Key[Array, ""],
    options: DQSamplingOptions | SamplingOptions,
    fixed_positions: bool = True,
) -> Codes:
    """New codes, one image for each label: every cell belongs to exactly one token.

    The positions of coarser grains are drawn; those of the finest are all that is left, in the order of the layout, or
    with `fixed_positions` False drawn as well. Plain SamplingOptions count for contents and positions alike. Each image
    draws with a key of its own. New options compile nothing; another batch size does.
    Raises InputError for options or labels out of range.
    """
    return generate_tokens(model, labels, key, options, fixed_positions)[1]


def generate_tokens(
    model: Any,
    labels: Int[Array | np.ndarray, "b"],
    key: Key[Array, ""],
    options: DQSamplingOptions | SamplingOptions,
    fixed_positions: bool = True,
    limit: int | None = None,
) -> tuple[Tokens, Codes]:
    """The sequences in the order in which they were drawn, and the codes that they describe; see `generate`.

    `limit` stops early: after so many tokens all images end as they are, some cells without a code.
    """
    if isinstance(options, SamplingOptions):
        options = DQSamplingOptions(**_both(options))
    settings = options.arrays()
    if labels.ndim != 1:
        raise InputError(f"labels have shape {labels.shape}: this model expects ('b',)")
    _check_labels(labels, model.layout.classes)
    limit = model.layout.capacity if limit is None else min(limit, model.layout.capacity)
    return _generate(model, jnp.asarray(labels), key, settings, jnp.asarray(fixed_positions), jnp.int32(limit))


def _both(options: SamplingOptions) -> dict[str, Any]:
    """Options that don't tell contents from positions count for both."""
    found = dataclasses.asdict(options)
    return found | {f"position_{name}": value for name, value in found.items()}


def _check_labels(labels: Any, classes: int) -> None:
    # values inside jit, or spread over hosts, cannot be looked at; an unconditional model takes any
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True) or not classes:
        return
    labels = np.asarray(labels)
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise InputError(f"label {outside[0]} is out of range: this model has {classes}, from 0 to {classes - 1}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    """What the loop carries: the newest token of each image, what has been drawn so far, and both stacks' caches."""

    t: Any  # Int[], the index of the newest token
    content: Any  # Int[b]
    position: Any  # Int[b]
    grain: Any  # Int[b]
    done: Any  # Bool[b]
    free: Any  # Bool[b cells], which cells of the finest grid no token covers yet
    codes: Any  # Int[b cells]
    grains: Any  # Int[b cells]
    tokens: Any  # Tokens
    caches: Any


@jax.jit
def _generate(
    model: Any,
    labels: Int[Array, "b"],
    key: Key[Array, ""],
    settings: tuple[Settings, Settings],
    fixed: Bool[Array, ""],
    limit: Int[Array, ""],
) -> tuple[Tokens, Codes]:
    layout, labels = model.layout, model.conditions(labels)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(labels.shape[0]))
    step = functools.partial(_step, layout, _Network(model.network), labels, keys, settings, fixed)
    going = lambda state: (state.t + 1 < limit) & ~jnp.all(state.done)  # noqa: E731
    state = jax.lax.while_loop(going, step, _start(layout, model.network, labels))
    square = functools.partial(rearrange, pattern="b (h w) -> b h w", h=layout.grids[-1])
    block = layout.grids[-1] // layout.grids[0]
    return state.tokens, Codes(codes=square(state.codes), grain=square(state.grains)[:, ::block, ::block])


def _start(layout: SequenceLayout, network: Any, labels: Array) -> _State:
    batch, cells = labels.shape[0], layout.grids[-1] ** 2
    zeros = jnp.zeros((batch, cells), jnp.int32)
    content, position = labels + layout.content_sos, labels + layout.position_sos[0]
    pads = jnp.zeros((batch, layout.capacity), jnp.int32)
    stacks = (network.position_stack, network.content_stack)
    return _State(
        t=jnp.int32(0),
        content=content,
        position=position,
        grain=jnp.zeros_like(labels),
        done=jnp.zeros(batch, bool),
        free=jnp.ones((batch, cells), bool),
        codes=zeros,
        grains=zeros,
        tokens=Tokens(
            content=(pads + layout.content_pad).at[:, 0].set(content),
            position=(pads + layout.position_pad[-1]).at[:, 0].set(position),
            grain=(pads + len(layout.grids) - 1).at[:, 0].set(0),
            length=jnp.ones(batch, jnp.int32),
        ),
        # nothing follows the last token, so the caches have no place for it
        caches=tuple(stack.init_caches(batch, layout.capacity - 1) for stack in stacks),
    )


class _Network:
    """The network with its layers apart and its weights in the compute dtype, made once before the loop."""

    def __init__(self, network: Any):
        self.network = network
        self.stacks = (network.position_stack.unstack(), network.content_stack.unstack())
        heads = (network.position_head, network.content_head)
        self.heads = tuple(in_compute_dtype(head, head.dtype) for head in heads)


def _step(
    layout: SequenceLayout,
    parts: _Network,
    labels: Array,
    keys: Array,
    settings: tuple[Settings, Settings],
    fixed: Array,
    state: _State,
) -> _State:
    """One more token for each image that is not done."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, state.t)
    subkeys = jax.vmap(functools.partial(jax.random.split, num=2))(keys)
    network, index = parts.network, jnp.broadcast_to(state.t, labels.shape)
    x = network.tokens(state.content, state.position, state.grain, index)
    a, first = decode(parts.stacks[0], x[:, None], state.caches[0], state.t)
    allowed = dqpositions.allowed(layout, state.free, state.grain)
    drawn = _draw(subkeys[:, 0], jnp.where(allowed, parts.heads[0](a[:, 0]), -jnp.inf), settings[0])
    left = dqpositions.remaining(layout, state.free)
    drawn = jnp.where(fixed & (state.grain == len(layout.grids) - 1), left, drawn)
    position, grain = dqpositions.follow(layout, state.position, state.grain, drawn, labels)

    x = a[:, 0].astype(jnp.float32) + network.places(position, grain)
    b, second = decode(parts.stacks[1], x[:, None], state.caches[1], state.t)
    logits = parts.heads[1](b[:, 0])
    logits = jnp.where(jnp.arange(logits.shape[-1]) < layout.codebook_size, logits, -jnp.inf)
    drawn = _draw(subkeys[:, 1], logits, settings[1])
    cells, eos, sos = (jnp.array(x)[grain] for x in dqpositions.numbers(layout))
    content = jnp.where(position < cells, drawn, jnp.where(position == eos, layout.content_eos, labels))
    content = jnp.where(position >= sos, layout.content_sos + labels, content)
    return _write(layout, state, content, position, grain, (first, second))


def _draw(keys: Array, logits: Array, settings: Settings) -> Array:
    return jax.vmap(functools.partial(sample, temperature=settings[0], top_k=settings[1], top_p=settings[2]))(
        keys, logits
    )


def _write(layout: SequenceLayout, state: _State, content: Array, position: Array, grain: Array, caches: Any) -> _State:
    """The state with one more token for each image that is not done."""
    t, done = state.t + 1, state.done
    covers = (jnp.asarray(dqpositions.owners(layout))[grain] == position[:, None]) & ~done[:, None]
    put = lambda old, new: old.at[:, t].set(jnp.where(done, old[:, t], new))  # noqa: E731
    tokens = state.tokens
    return _State(
        t=t,
        content=content,
        position=position,
        grain=grain,
        done=done | ((grain == len(layout.grids) - 1) & (position == layout.position_eos[-1])),
        free=state.free & ~covers,
        codes=jnp.where(covers, content[:, None], state.codes),
        grains=jnp.where(covers, grain[:, None], state.grains),
        tokens=Tokens(
            content=put(tokens.content, content),
            position=put(tokens.position, position),
            grain=put(tokens.grain, grain),
            length=jnp.where(done, tokens.length, t + 1),
        ),
        caches=caches,
    )
