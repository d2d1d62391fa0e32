"""The state dict of official DQ-Transformers, in both directions."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rqjax.dq.router import NAMES
from rqjax.dq.transformer import DQTransformer, DQTransformerConfig
from rqjax.official.dqtransformer_config import dqtransformer_config as dqtransformer_config  # the fourth one
from rqjax.store.arrays import from_arrays, to_arrays
from rqjax.torchfile.table import LINEAR, Entry, export_arrays, import_arrays

PREFIX = "transformer."
"""Where the transformer stands in a stage-2 checkpoint, beside the `first_stage_model.` that it was trained for."""
MASK = "attn.mask"
"""Each layer of the release holds a causal mask: half a gigabyte in all that says nothing."""
NORMS = (("ln1", "norm1"), ("ln2", "norm2"))
LINEARS = (
    *((f"attn.{name}", name) for name in ("key", "query", "value", "proj")),
    *(("mlp.0", "up"), ("mlp.2", "down")),
)
Shapes = Mapping[str, tuple[int, ...]]


def dqtransformer_keys(config: DQTransformerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official state dict's transformer part, in its order, found without making any array."""
    like = jax.eval_shape(config.init, jax.random.key(0))
    shapes = {entry.key: entry.shape for entry in _entries(like)}
    return _named(_with_masks(shapes, (1, 1, config.block_size, config.block_size)))


def dqtransformer_from_torch(state_dict: Mapping[str, Any], config: DQTransformerConfig) -> DQTransformer:
    """The model of an official state dict: of a whole stage-2 checkpoint, or of its transformer alone.

    Raises InputError naming keys that are missing, unknown or misshapen.
    """
    like = jax.eval_shape(config.init, jax.random.key(0))
    part = {key.removeprefix(PREFIX): value for key, value in state_dict.items() if key.startswith(PREFIX)}
    tensors = {key: value for key, value in (part or state_dict).items() if not key.endswith(f".{MASK}")}
    ours = to_arrays(like)
    arrays = ours | import_arrays(_entries(like), tensors, ours)
    return from_arrays(like, {path: np.asarray(array, np.float32) for path, array in arrays.items()})


def dqtransformer_to_torch(model: DQTransformer) -> dict[str, np.ndarray | Callable[[], np.ndarray]]:
    """The transformer part of an official checkpoint's state dict, in its order of keys.

    Masks are one and the same function, which makes the array when `rqjax.torchfile.file.save` writes them, once for
    all.
    """
    size = model.network.pos_emb.shape[0]
    state_dict = export_arrays(_entries(model), to_arrays(model))
    return _named(_with_masks(state_dict, lambda: np.tril(np.ones((1, 1, size, size), np.float32))))


def _named(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {PREFIX + key: value for key, value in state_dict.items()}


def _with_masks(state_dict: Mapping[str, Any], mask: Any) -> dict[str, Any]:
    """The state dict with each layer's mask in front of its attention's weights."""
    found: dict[str, Any] = {}
    for key, value in state_dict.items():
        if key.endswith(".attn.key.weight"):
            found[key.replace("attn.key.weight", MASK)] = mask
        found[key] = value
    return found


def _entries(model: DQTransformer) -> Iterator[Entry]:
    """Where each tensor lives, in the order of the official files; `model` may hold shapes.

    The release has two grains. The position embedding of a third is named after its grain in the same way.
    """
    shapes: Shapes = {path: tuple(array.shape) for path, array in to_arrays(model).items()}
    yield Entry("pos_emb", "network/pos_emb", (1, *shapes["network/pos_emb"]))
    tables = [f"content_{name}_pos_emb" for name in NAMES[len(model.layout.grids)]]
    paths = {table: f"position_embs/{g}" for g, table in enumerate(tables)}
    for key, path in (paths | {"content_emb": "content_emb", "seg_emb": "grain_emb"}).items():
        yield Entry(f"{key}.weight", f"network/{path}/embedding", shapes[f"network/{path}/embedding"])
    for name in ("position", "content"):
        blocks = f"network/{name}_stack/blocks"
        for layer in range(shapes[f"{blocks}/norm1/scale"][0]):
            yield from _block(shapes, f"{name}_transformer.{layer}", blocks, layer)
    for name in ("position", "content"):
        yield from _norm(shapes, f"{name}_head.0", f"network/{name}_head/norm", None)
        kernel = shapes[f"network/{name}_head/kernel"]
        yield Entry(f"{name}_head.1.weight", f"network/{name}_head/kernel", kernel[::-1], LINEAR)


def _block(shapes: Shapes, key: str, path: str, layer: int) -> Iterator[Entry]:
    for theirs, ours in NORMS:
        yield from _norm(shapes, f"{key}.{theirs}", f"{path}/{ours}", layer)
    for theirs, ours in LINEARS:
        # our kernel splits its outputs by heads, or its inputs
        bias = int(np.prod(shapes[f"{path}/{ours}/bias"][1:]))
        inputs = int(np.prod(shapes[f"{path}/{ours}/kernel"][1:])) // bias
        yield Entry(f"{key}.{theirs}.weight", f"{path}/{ours}/kernel", (bias, inputs), LINEAR, layer)
        yield Entry(f"{key}.{theirs}.bias", f"{path}/{ours}/bias", (bias,), layer=layer)


def _norm(shapes: Shapes, key: str, path: str, layer: int | None) -> Iterator[Entry]:
    for theirs, ours in (("weight", "scale"), ("bias", "bias")):
        yield Entry(f"{key}.{theirs}", f"{path}/{ours}", shapes[f"{path}/{ours}"][-1:], layer=layer)
