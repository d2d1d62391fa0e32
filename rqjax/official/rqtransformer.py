"""RQ-Transformers of the official release: their configuration, and their state dict, in both directions."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rqjax.errors import InputError
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig
from rqjax.store.arrays import from_arrays, to_arrays
from rqjax.torchfile.table import Entry, export_arrays, import_arrays, linear

FLAGS = ("input_emb_vqvae", "head_emb_vqvae", "cumsum_depth_ctx", "shared_tok_emb", "shared_cls_emb")
DEAD = ("type", "ema", "ar_hierarchy", "use_padding_emb", "scaled_head_emb_vqvae")
SIZES = ("block_size", "vocab_size", "embed_dim", "input_embed_dim", "vocab_size_cond", "block_size_cond", "embd_pdrop")
BLOCK = {"mlp_bias": True, "attn_bias": True, "attn_pdrop": 0.0, "resid_pdrop": 0.1, "gelu": "v1"}
OFFSETS = "tok_emb.offsets"
"""Where each depth's rows begin in the one table of embeddings: known from the sizes of the codebooks."""
Shapes = Mapping[str, tuple[int, ...]]


def rqtransformer_config(arch: Mapping[str, Any]) -> RQTransformerConfig:
    """The configuration that an official `arch` block describes, with its defaults filled in.

    Training settings that `arch` doesn't hold are those of the published YAML files: soft targets of temperature 0.5,
    stochastic codes, and for texts weights of 0.9 and 0.1. Raises InputError for unknown keys and missing ones.
    """
    _refuse_unknown("arch", arch, (*SIZES, *FLAGS, *DEAD, "body", "head"))
    h, w, depth = _required("arch", arch, "block_size")
    dim, vocab = _required("arch", arch, "embed_dim"), _required("arch", arch, "vocab_size")
    flags = {name: bool(arch.get(name, False)) for name in FLAGS}
    if flags["input_emb_vqvae"] or flags["head_emb_vqvae"]:
        _required("arch", arch, "input_embed_dim")
    conditions, length = max(arch.get("vocab_size_cond") or 1, 1), max(arch.get("block_size_cond") or 1, 1)
    if length > 1 and conditions == 1:
        raise InputError(f"block_size_cond is {length} but vocab_size_cond is 1: a text needs a vocabulary")
    text = length > 1
    config = RQTransformerConfig(
        code_shape=(h, w),
        depth=depth,
        codebook_size=(vocab,) if isinstance(vocab, int) else tuple(vocab),
        dim=dim,
        input_dim=arch.get("input_embed_dim") or dim,
        classes=0 if text or conditions == 1 else conditions,
        text_vocab=conditions if text else 0,
        text_length=length if text else 0,
        embedding_dropout=arch.get("embd_pdrop", 0.0),
        dtype="float32",
        remat=False,
        target="soft",
        temperature=0.5,
        stochastic=True,
        loss_chunk=32,
        image_loss_weight=0.9 if text else 1.0,
        text_loss_weight=0.1 if text else 0.0,
        **flags,
        **_stacks(arch, dim),
    )
    config.check()
    return config


def _stacks(arch: Mapping[str, Any], dim: int) -> dict[str, Any]:
    """Layers and heads of both stacks, and what their blocks have in common."""
    settings, blocks = {}, {}
    for name in ("body", "head"):
        stack = _required("arch", arch, name)
        _refuse_unknown(name, stack, ("n_layer", "block"))
        block = _required(name, stack, "block")
        _refuse_unknown(f"{name}.block", block, ("embed_dim", "n_head", *BLOCK))
        settings[f"{name}_layers"] = _required(name, stack, "n_layer")
        settings[f"{name}_heads"] = _required(f"{name}.block", block, "n_head")
        blocks[name] = BLOCK | {key: block[key] for key in BLOCK if key in block}
        if (width := block.get("embed_dim", dim)) != dim:
            raise InputError(f"{name}.block.embed_dim is {width}, embed_dim is {dim}: they must be equal")
    if blocks["body"] != blocks["head"]:
        raise InputError(f"body.block is {blocks['body']}, head.block is {blocks['head']}: they must be equal")
    block = blocks["body"]
    if not (block["mlp_bias"] and block["attn_bias"]):
        raise InputError("mlp_bias or attn_bias is false: only layers with biases are supported, as all published ones")
    if block["gelu"] not in ("v1", "v2"):
        raise InputError(f'gelu is {block["gelu"]!r}: expected "v1" or "v2"')
    settings |= {"dropout": block["resid_pdrop"], "attention_dropout": block["attn_pdrop"]}
    return settings | {"sigmoid_gelu": block["gelu"] == "v2"}


def _required(where: str, block: Mapping[str, Any], key: str) -> Any:
    if block.get(key) is None:
        raise InputError(f"{where} has no {key}: give the complete arch block of the release's config.yaml")
    return block[key]


def _refuse_unknown(where: str, block: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := sorted(set(block) - set(known)):
        raise InputError(f"{where} has unknown keys {', '.join(unknown)}: expected only {', '.join(known)}")


def rqtransformer_keys(config: RQTransformerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official state dict, in its order, found without making any array."""
    like = jax.eval_shape(config.init, jax.random.key(0))
    return _with_offsets({entry.key: entry.shape for entry in _entries(_shapes(like))}, (config.depth,), like)


def rqtransformer_from_torch(state_dict: Mapping[str, Any], config: RQTransformerConfig) -> RQTransformer:
    """The model of an official state dict. Raises InputError naming keys that are missing, unknown or misshapen."""
    like = jax.eval_shape(config.init, jax.random.key(0))
    shapes = _shapes(like)
    found = tuple(np.asarray(state_dict.get(OFFSETS, like.network.offsets)).tolist())
    if found != like.network.offsets:
        raise InputError(f"{OFFSETS} is {found}, the vocabularies say {like.network.offsets}: check vocab_size")
    tensors = {key: value for key, value in state_dict.items() if key != OFFSETS}
    arrays = import_arrays(_entries(shapes), tensors, to_arrays(like))
    return from_arrays(like, {path: np.asarray(array, np.float32) for path, array in arrays.items()})


def rqtransformer_to_torch(model: RQTransformer) -> dict[str, np.ndarray]:
    """The official state dict of a model, in its order of keys."""
    state_dict = export_arrays(_entries(_shapes(model)), to_arrays(model))
    return _with_offsets(state_dict, np.array(model.network.offsets, np.int64), model)


def _with_offsets(state_dict: dict[str, Any], offsets: Any, model: Any) -> dict[str, Any]:
    """The state dict with the buffer that embeddings of their own for each depth have beside their table."""
    if "tok_emb.weight" not in state_dict or not any(model.network.offsets):
        return state_dict
    items = list(state_dict.items())
    first = list(state_dict).index("tok_emb.weight") + 1
    return dict([*items[:first], (OFFSETS, offsets), *items[first:]])


def _shapes(model: Any) -> Shapes:
    return {path: tuple(array.shape) for path, array in to_arrays(model).items()}


def _entries(shapes: Shapes) -> Iterator[Entry]:
    """Where each tensor lives, in the order of the official files; `shapes` says which there are."""
    for name in ("pos_emb_cond", "pos_emb_hw", "pos_emb_d"):
        yield Entry(name, f"network/{name}", (1, *shapes[f"network/{name}"]))
    for name in ("cond_emb", "tok_emb"):
        if (path := f"network/{name}/embedding") in shapes:
            yield Entry(f"{name}.weight", path, shapes[path])
    for name in ("input_mlp", "head_mlp"):
        if f"network/{name}/kernel" in shapes:
            yield from _linear(shapes, name, f"network/{name}")
    for name in ("body", "head"):
        for layer in range(shapes[f"network/{name}/blocks/norm1/scale"][0]):
            yield from _block(shapes, f"{name}_transformer.blocks.{layer}", f"network/{name}/blocks", layer)
    for name in ("classifier", "cond_classifier"):
        if f"network/{name}/kernel" in shapes:
            yield from _norm(shapes, f"{name}.layer_norm", f"network/{name}/layer_norm")
            yield from _classifier(shapes, f"{name}.linear", f"network/{name}")


def _block(shapes: Shapes, key: str, path: str, layer: int) -> Iterator[Entry]:
    yield from _norm(shapes, f"{key}.ln1", f"{path}/norm1", layer)
    yield from _norm(shapes, f"{key}.ln2", f"{path}/norm2", layer)
    for name in ("key", "query", "value", "proj"):
        yield from _linear(shapes, f"{key}.attn.{name}", f"{path}/{name}", layer)
    yield from _linear(shapes, f"{key}.mlp.0", f"{path}/up", layer)
    yield from _linear(shapes, f"{key}.mlp.2", f"{path}/down", layer)


def _norm(shapes: Shapes, key: str, path: str, layer: int | None = None) -> Iterator[Entry]:
    for theirs, ours in (("weight", "scale"), ("bias", "bias")):
        yield Entry(f"{key}.{theirs}", f"{path}/{ours}", shapes[f"{path}/{ours}"][-1:], layer=layer)


def _linear(shapes: Shapes, key: str, path: str, layer: int | None = None) -> Iterator[Entry]:
    """A linear layer; kernel and bias may have their outputs split over two axes, or the kernel its inputs."""
    skip = 0 if layer is None else 1
    kernel, bias = shapes[f"{path}/kernel"][skip:], shapes[f"{path}/bias"][skip:]
    outputs = int(np.prod(bias))
    yield linear(f"{key}.weight", f"{path}/kernel", kernel, int(np.prod(kernel)) // outputs, layer)
    yield Entry(f"{key}.bias", f"{path}/bias", (outputs,), layer=layer)


def _classifier(shapes: Shapes, key: str, path: str) -> Iterator[Entry]:
    """One linear layer, or one for each depth, which the release holds as (depth, in, out)."""
    kernel, bias = shapes[f"{path}/kernel"], shapes[f"{path}/bias"]
    if len(kernel) == 2:
        yield from _linear(shapes, key, path)
    else:
        yield Entry(f"{key}.weight", f"{path}/kernel", kernel)
        yield Entry(f"{key}.bias", f"{path}/bias", bias)
