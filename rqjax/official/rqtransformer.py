"""The official RQ-Transformer: its `arch` section as a config of ours, and its state dict, both ways."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rqjax.errors import InputError
from rqjax.official.layers import stack_entries
from rqjax.official.section import AGREE, Section
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig
from rqjax.torchfile.table import Entry, StateDict, layer_entries, shapes_of

FLAGS = ("input_emb_vqvae", "head_emb_vqvae", "cumsum_depth_ctx", "shared_tok_emb", "shared_cls_emb")
OFFSETS = "tok_emb.offsets"
"""Where each depth's rows begin in the one table of embeddings: known from the sizes of the codebooks."""


def rqtransformer_config(arch: object) -> RQTransformerConfig:
    """Our config for the `arch` section of an official YAML, `vocab_size` filled in.

    Training settings that `arch` doesn't hold are those of the published YAML files: soft targets of temperature 0.5,
    stochastic codes, and for texts weights of 0.9 and 0.1. Raises InputError for unknown keys and missing ones.
    """
    top = Section(arch, "arch")
    top.ignore("type", "ema", "ar_hierarchy", "use_padding_emb", "scaled_head_emb_vqvae")
    height, width, depth = top.wholes("block_size", 3)
    dim, flags = top.whole("embed_dim"), top.take(lambda section, key: section.flag(key, False), *FLAGS)
    # the official head sums over depths in the branch of the tokenizer's vectors alone
    flags["cumsum_depth_ctx"] &= flags["head_emb_vqvae"]
    body, body_block = _stack(top.section("body"), "body", dim)
    head, head_block = _stack(top.section("head"), "head", dim)
    if body_block != head_block:
        raise InputError(f"the blocks of body and head have {body_block} and {head_block}: they must be equal")
    reads_codes = flags["input_emb_vqvae"] or flags["head_emb_vqvae"]
    config = RQTransformerConfig(
        code_shape=(height, width),
        depth=depth,
        codebook_size=top.each("vocab_size", Section.whole),
        dim=dim,
        input_dim=top.whole("input_embed_dim", None if reads_codes else dim),
        embedding_dropout=top.number("embd_pdrop", 0.0),
        dtype="float32",
        remat=False,
        **flags,
        **_condition(top),
        **body,
        **head,
        **body_block,
    )
    top.finish()
    config.check()
    return config


def _condition(top: Section) -> dict[str, Any]:
    """Nothing, a class, or a text, whose loss the published model weighs by a tenth."""
    size, length = (max(top.whole(name, 1, least=0), 1) for name in ("vocab_size_cond", "block_size_cond"))
    if length > 1 and size == 1:
        raise InputError(f"block_size_cond is {length} but vocab_size_cond is 1: a text needs a vocabulary")
    if length > 1:
        return {"text_vocab": size, "text_length": length, "image_loss_weight": 0.9, "text_loss_weight": 0.1}
    return {"classes": size if size > 1 else 0}


def _stack(stack: Section, name: str, dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Layers and heads of a stack, and what its blocks must have in common with the other's."""
    block = stack.section("block")
    block.expect(AGREE, embed_dim=dim)
    block.expect(mlp_bias=True, attn_bias=True)
    shared = {"dropout": block.number("resid_pdrop", 0.1), "attention_dropout": block.number("attn_pdrop", 0.0)}
    shared["sigmoid_gelu"] = block.text("gelu", "v1", choices=("v1", "v2")) == "v2"
    return {f"{name}_layers": stack.whole("n_layer"), f"{name}_heads": block.whole("n_head")}, shared


def entries(model: RQTransformer) -> Iterator[Entry]:
    """Where each tensor lives, in the order of the official files; `model` may hold shapes.

    Raises InputError for options that the official model does not have.
    """
    config, shapes = model.config, shapes_of(model)
    options = {"qk_norm": config.qk_norm, "rope": config.rope}
    options["cumsum_depth_ctx without head_emb_vqvae"] = config.cumsum_depth_ctx and not config.head_emb_vqvae
    if strange := [name for name, there in options.items() if there]:
        raise InputError(f"a prior with {' and '.join(strange)} has no official form: export it to safetensors instead")
    for name in ("pos_emb_cond", "pos_emb_hw", "pos_emb_d"):
        yield Entry(name, f"network/{name}", (1, *shapes[f"network/{name}"]))
    for name in ("cond_emb", "tok_emb", "input_mlp", "head_mlp"):
        yield from layer_entries(name, f"network/{name}", shapes)
    for name in ("body", "head"):
        yield from stack_entries(f"{name}_transformer.blocks", f"network/{name}/blocks", shapes)
    for name in ("classifier", "cond_classifier"):
        path = f"network/{name}"
        yield from layer_entries(f"{name}.layer_norm", f"{path}/layer_norm", shapes)
        if len(shapes.get(f"{path}/kernel", ())) == 3:  # one layer for each depth, which the release holds as we do
            for leaf, theirs in (("kernel", "weight"), ("bias", "bias")):
                yield Entry(f"{name}.linear.{theirs}", f"{path}/{leaf}", shapes[f"{path}/{leaf}"])
        else:
            yield from layer_entries(f"{name}.linear", path, shapes)


def held(state_dict: StateDict, model: RQTransformer) -> StateDict:
    """The state dict without the offsets of its embeddings. Raises InputError if they are not those of the model."""
    offsets = model.network.offsets
    found = tuple(np.asarray(state_dict.get(OFFSETS, offsets)).tolist())
    if found != offsets:
        raise InputError(f"{OFFSETS} is {found}, the vocabularies say {offsets}: check vocab_size")
    return {key: tensor for key, tensor in state_dict.items() if key != OFFSETS}


def with_offsets(tensors: StateDict, model: RQTransformer) -> dict[str, np.ndarray]:
    """The official state dict of a model, given its tensors: with offsets where depths have embeddings of their own."""
    state_dict = {}
    for key, tensor in tensors.items():
        state_dict[key] = tensor
        if key == "tok_emb.weight" and not model.config.shared_tok_emb:
            state_dict[OFFSETS] = np.array(model.network.offsets, np.int64)
    return state_dict
