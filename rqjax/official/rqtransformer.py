"""The official RQ-Transformer: its `arch` section as a config of ours, and its state dict, both ways."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rqjax.errors import InputError
from rqjax.official.layers import stack_entries
from rqjax.official.section import AGREE, Section
from rqjax.rq.network import BlockConfig
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig
from rqjax.torchfile.table import Entry, StateDict, layer_entries, shapes_of

FLAGS = ("input_emb_vqvae", "head_emb_vqvae", "cumsum_depth_ctx", "shared_tok_emb", "shared_cls_emb")
NAMES = {
    **{"codebook_size": "vocab_size", "dim": "embed_dim", "embedding_dropout": "embd_pdrop"},
    **{"body_heads": "body.block.n_head", "dropout": "body.block.resid_pdrop"},
    **{"head_heads": "head.block.n_head", "attention_dropout": "body.block.attn_pdrop"},
}
"""The options, by our fields, that errors of our check may be about."""
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
    body, head = top.section("body"), top.section("head")
    body_block, head_block = _block(body, dim), _block(head, dim)
    reads_codes = flags["input_emb_vqvae"] or flags["head_emb_vqvae"]
    config = RQTransformerConfig(
        code_shape=(height, width),
        depth=depth,
        codebook_size=top.each("vocab_size", Section.whole),
        dim=dim,
        input_dim=top.whole("input_embed_dim", None if reads_codes else dim),
        embedding_dropout=top.number("embd_pdrop", 0.0),
        body_layers=body.whole("n_layer", least=0),
        body_heads=body.section("block").whole("n_head"),
        head_layers=head.whole("n_layer", least=0),
        head_heads=head.section("block").whole("n_head"),
        head_block=None if head_block == body_block else BlockConfig(**head_block),
        dtype="float32",
        remat=False,
        **flags,
        **_condition(top),
        **body_block,
    )
    top.finish()
    top.check(config.check, **NAMES)
    return config


def _condition(top: Section) -> dict[str, Any]:
    """Nothing, a class, or a text, whose loss the published model weighs by a tenth."""
    size, length = (max(top.whole(name, 1, least=0), 1) for name in ("vocab_size_cond", "block_size_cond"))
    if length > 1 and size == 1:
        raise InputError(f"block_size_cond is {length} but vocab_size_cond is 1: a text needs a vocabulary")
    if length > 1:
        return {"text_vocab": size, "text_length": length, "image_loss_weight": 0.9, "text_loss_weight": 0.1}
    return {"classes": size if size > 1 else 0}


def _block(stack: Section, dim: int) -> dict[str, Any]:
    """The fields of a BlockConfig that the blocks of a stack make."""
    block = stack.section("block")
    block.expect(AGREE, embed_dim=dim)
    return {
        "dropout": block.number("resid_pdrop", 0.1),
        "attention_dropout": block.number("attn_pdrop", 0.0),
        "sigmoid_gelu": block.text("gelu", "v1", choices=("v1", "v2")) == "v2",
        "attention_bias": block.flag("attn_bias", True),
        "mlp_bias": block.flag("mlp_bias", True),
    }


def entries(model: RQTransformer) -> Iterator[Entry]:
    """Where each tensor lives, in the order of the official files; `model` may hold shapes.

    Raises InputError for options that the official model does not have.
    """
    config, shapes = model.config, shapes_of(model)
    options = {"qk_norm": config.qk_norm, "rope": config.rope, "condition_dropout": bool(config.condition_dropout)}
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
