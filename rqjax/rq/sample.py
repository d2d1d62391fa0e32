"""Drawing codes from an RQ-Transformer: one compiled program over preallocated caches."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.errors import InputError
from rqjax.nets.sampling import sample
from rqjax.nets.transformer import decode, in_compute_dtype, prefill
from rqjax.quantize.residual import Codebooks

Host = Array | np.ndarray


@dataclasses.dataclass(kw_only=True)
class SamplingOptions:
    """How codes are drawn: each setting is one number, or a tuple with one for each depth.

    Temperature 0 takes the likeliest code. `top_k` None and `top_p` 1 filter nothing.
    """

    temperature: float | tuple[float, ...] = 1.0
    top_k: int | tuple[int, ...] | None = None
    top_p: float | tuple[float, ...] = 1.0

    def arrays(self, sizes: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """Temperature, top_k and top_p of every depth. Raises InputError for values that cannot be used."""
        top_k = max(sizes) if self.top_k is None else self.top_k
        temperature = _by_depth("temperature", self.temperature, len(sizes), np.float32)
        top_k, top_p = (
            _by_depth("top_k", top_k, len(sizes), np.int32),
            _by_depth("top_p", self.top_p, len(sizes), np.float32),
        )
        if not np.all(temperature >= 0):
            raise InputError(f"temperature is {self.temperature}: expected 0 (greedy) or more")
        if not np.all(top_k >= 1):
            raise InputError(f"top_k is {self.top_k}: expected at least 1, or None to keep every code")
        if not np.all(top_p > 0):
            raise InputError(f"top_p is {self.top_p}: expected a number above 0, up to 1")
        return jnp.asarray(temperature), jnp.asarray(top_k), jnp.asarray(top_p)


def _by_depth(name: str, value: Any, depth: int, dtype: Any) -> np.ndarray:
    values = np.atleast_1d(np.asarray(value, dtype))
    if values.shape not in ((1,), (depth,)):
        raise InputError(f"{name} has {values.size} values: give one, or one for each of the {depth} depths")
    return np.broadcast_to(values, depth)


def generate(
    model: Any,
    codebooks: Codebooks,
    labels: Int[Host, "b"] | Int[Host, "b length"],
    key: Key[Array, ""],
    options: SamplingOptions,
    codes: Int[Host, "b h w depth"] | None = None,
    start: tuple[int, int] = (0, 0),
) -> Int[Array, "b h w depth"]:
    """New codes, one grid for each label, or the completion of `codes` from the position `start` (row, column) on.

    Each row draws with a key of its own, so it does not depend on how many others there are. New options compile
    nothing; another batch size or start does. Raises InputError for options, labels, codes or a start out of range.
    """
    settings = options.arrays(model.sizes)
    h, w = model.code_shape
    given = start[0] * w + start[1]
    if not (0 <= start[0] < h and 0 <= start[1] < w):
        raise InputError(f"start is {tuple(start)}: expected a position of the {h}x{w} grid")
    if codes is None and given:
        raise InputError(f"start is {tuple(start)} but no codes are given: pass those before it, or start at (0, 0)")
    _check_labels(model, labels)
    if codes is None:
        codes = np.zeros((labels.shape[0], h, w, model.depth), np.int32)
    _check_codes(model, codes, labels.shape[0])
    prefix = rearrange(jnp.asarray(codes, jnp.int32), "b h w d -> b (h w) d")[:, :given]
    return _generate(model, codebooks, jnp.asarray(labels), prefix, key, settings)


def _check_labels(model: Any, labels: Any) -> None:
    shape, size = (("b", model.text_length), model.text_vocab) if model.text_vocab else (("b",), model.classes)
    if labels.ndim != len(shape) or labels.shape[1:] != shape[1:]:
        raise InputError(f"labels have shape {labels.shape}: this model expects {shape}")
    _check_range("label", labels, size if size else np.iinfo(np.int32).max)


def _check_codes(model: Any, codes: Any, batch: int) -> None:
    expected = (batch, *model.code_shape, model.depth)
    if codes.shape != expected:
        raise InputError(f"codes have shape {codes.shape}: expected {expected}, one grid for each label")
    for depth, size in enumerate(model.sizes):
        _check_range(f"code of depth {depth + 1}", codes[..., depth], size)


def _check_range(what: str, values: Any, size: int) -> None:
    # values inside jit, or spread over hosts, cannot be looked at
    if isinstance(values, jax.core.Tracer) or not getattr(values, "is_fully_addressable", True) or not values.size:
        return
    values = np.asarray(values)
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise InputError(f"{what} {outside[0]} is out of range: this model has {size}, from 0 to {size - 1}")


@jax.jit
def _generate(
    model: Any,
    codebooks: Codebooks,
    labels: Array,
    prefix: Int[Array, "b given depth"],
    key: Key[Array, ""],
    settings: tuple[Array, Array, Array],
) -> Int[Array, "b h w depth"]:
    network, conditions = model.network, model.conditions(labels)
    batch, length = conditions.shape
    positions, given = model.code_shape[0] * model.code_shape[1], prefix.shape[1]
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))
    blocks = network.body.unstack()
    x = network.prefix(conditions, prefix, model.vectors(codebooks, prefix))
    x, caches = prefill(blocks, x, network.body.init_caches(batch, length + positions - 1))
    draw = _position_sampler(model, codebooks, settings)

    def step(carry: Any, t: Array) -> tuple[Any, Array]:
        spatial, caches = carry
        codes = draw(spatial, jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, t))
        x = network.tokens(codes[:, None], model.vectors(codebooks, codes[:, None])) + network.pos_emb_hw[t]
        # nothing reads the last position's token: the cache has no place for it, and its write falls on the last one
        x, caches = decode(blocks, x, caches, length + t)
        return (x[:, 0], caches), codes

    _, codes = jax.lax.scan(step, (x[:, -1], caches), jnp.arange(given, positions))
    codes = jnp.concatenate([prefix, rearrange(codes, "n b d -> b n d")], axis=1)
    return rearrange(codes, "b (h w) d -> b h w d", h=model.code_shape[0])


def _position_sampler(model: Any, codebooks: Codebooks, settings: tuple[Array, Array, Array]) -> Any:
    """A function that draws the codes [b depth] of one position from the body's output there and a key for each row."""
    network = model.network
    blocks, classifier = network.head.unstack(), in_compute_dtype(network.classifier, network.classifier.dtype)

    def draw(spatial: Float[Array, "b dim"], keys: Key[Array, "b"]) -> Int[Array, "b depth"]:
        caches = network.head.init_caches(spatial.shape[0], model.depth)
        x, codes = spatial.astype(jnp.float32), jnp.zeros((spatial.shape[0], 0), jnp.int32)
        for d in range(model.depth):
            x, caches = decode(blocks, (x + network.pos_emb_d[d])[:, None], caches, d)
            each = functools.partial(sample, temperature=settings[0][d], top_k=settings[1][d], top_p=settings[2][d])
            subkeys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, d)
            code = jax.vmap(each)(subkeys, classifier.at(x[:, 0], d))
            codes = jnp.concatenate([codes, code[:, None]], axis=1)
            if d + 1 < model.depth:
                x = network.context(codes[:, None], model.vectors(codebooks, codes[:, None]))[:, 0, -1]
        return codes

    return draw
