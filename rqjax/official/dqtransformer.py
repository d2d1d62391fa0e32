"""The official DQ-Transformer: its `model` section as a config of ours, and its state dict, both ways."""

from collections.abc import Iterator

import numpy as np

from rqjax.dq.router import NAMES
from rqjax.dq.transformer import DQTransformer, DQTransformerConfig
from rqjax.errors import InputError
from rqjax.official.layers import stack_entries
from rqjax.official.section import AGREE, Section
from rqjax.torchfile.table import Entry, StateDict, layer_entries, shapes_of

PREFIX = "transformer."
"""The prefix of the transformer's keys in a stage-2 checkpoint."""
MASK = "attn.mask"
"""Each layer of the release holds a causal mask, all alike."""
START = {
    "dqtransformer_uncond_entropy.Dualformer": ("uncond_stage_config", ".PositionAwareSOSProvider"),
    "dqtransformer_class2_entropy.Dualformer": ("class_cond_stage_config", ".ClassAwareSOSProvider"),
}
"""Official classes, by the ends of their names: which section says what a sequence starts with, and its class."""
_NETWORK, _PERMUTER = (f"params.{name}_config.params" for name in ("transformer", "permuter"))
OPTIONS = {
    **{"dim": f"{_NETWORK}.n_embd", "heads": f"{_NETWORK}.n_head", "block_size": f"{_NETWORK}.block_size"},
    **{"embedding_dropout": f"{_NETWORK}.embd_pdrop", "dropout": f"{_NETWORK}.resid_pdrop"},
    **{"attention_dropout": f"{_NETWORK}.attn_pdrop", "order": f"{_PERMUTER}.fine_position_order"},
    **{name: f"params.{name}" for name in ("position_loss_weight", "content_loss_weight")},
}
"""The options, by our fields, that errors of our check may be about."""


def dqtransformer_config(model: object) -> DQTransformerConfig:
    """Our config for the `model` section of an official file.

    Options of training and the section of the first stage are accepted and left to others; images are not packed.
    Raises InputError naming unknown keys and missing ones, and for special codes of its parts that disagree.
    """
    top = Section(model, "model")
    top.ignore("base_learning_rate", "learning_rate", "min_learning_rate")
    kind, params = top.instance(*START)
    params.ignore("first_stage_config", "weight_decay", "warmup_epochs", "monitor", "ckpt_path", "ignore_keys")
    params.ignore("scheduler_type")
    params.expect(activate_sos_for_fine_sequence=True)
    name, provider = START[kind]
    _, network = params.section("transformer_config").instance(".StackGPT")
    _, permuter = params.section("permuter_config").instance(".DualGrainSeperatePermuter")
    _, start = params.section(name).instance(provider)
    network.expect(activate_pad_ignore=True)
    config = DQTransformerConfig(
        grids=(permuter.whole("coarse_hw"), permuter.whole("fine_hw")),
        codebook_size=permuter.whole("content_pad_code"),
        classes=start.whole("n_classes") if name == "class_cond_stage_config" else 0,
        order=permuter.text("fine_position_order", "region-first"),
        **network.take(Section.whole, "block_size", dim="n_embd", heads="n_head"),
        **network.take(Section.whole, position_layers="position_layer", content_layers="content_layer"),
        **network.take(
            Section.number, embedding_dropout="embd_pdrop", dropout="resid_pdrop", attention_dropout="attn_pdrop"
        ),
        dtype="float32",
        remat=False,
        position_loss_weight=params.number("position_loss_weight", 1.0),
        content_loss_weight=params.number("content_loss_weight", 1.0),
    )
    permuter.expect(AGREE, fine_hw=2 * config.grids[0])
    top.check(config.check, **OPTIONS)
    _check_codes(config, network, permuter, start)
    top.finish()
    return config


def _check_codes(config: DQTransformerConfig, network: Section, permuter: Section, start: Section) -> None:
    """Refuses special codes other than those that the grids, the codebook's size and the classes make."""
    layout = config.layout
    pads, ends = {"content_pad_code": layout.content_pad}, {"content_eos_code": layout.content_end}
    sizes = {"vocab_size": layout.content_size, "segment_size": len(layout.grids)}
    for grain, name in enumerate(("coarse", "fine")):
        pads[f"{name}_position_pad_code"] = layout.position_pad[grain]
        ends[f"{name}_position_eos_code"] = layout.position_end[grain]
        sizes[f"{name}_position_size"] = layout.position_sizes[grain]
    content, (coarse, fine) = layout.content_start, layout.position_start
    if config.classes:
        starts = {"threshold_content": content, "threshold_coarse_position": coarse, "threshold_fine_position": fine}
    else:
        starts = {"coarse_sos": content, "fine_sos": content, "coarse_pos_sos": coarse, "fine_pos_sos": fine}
    network.expect(AGREE, required=True, **pads, **sizes)
    permuter.expect(AGREE, required=True, **pads, **ends)
    start.expect(AGREE, required=True, **starts, coarse_seg_sos=0, fine_seg_sos=1)


def entries(model: DQTransformer) -> Iterator[Entry]:
    """Where each tensor lives, in the order of the official files; `model` may hold shapes.

    The release has two grains. The position embedding of a third is named after its grain in the same way. Raises
    InputError for options that the official model does not have.
    """
    if model.config.text_vocab:
        raise InputError(
            "a DQ-Transformer that is led by texts has no official form, whose code takes their features from CLIP and"
            " never came: export it to safetensors instead"
        )
    if model.config.condition_dropout:
        raise InputError("a prior with condition_dropout has no official form: export it to safetensors instead")
    shapes = shapes_of(model)
    yield Entry("pos_emb", "network/pos_emb", (1, *shapes["network/pos_emb"]))
    grains = len([path for path in shapes if path.startswith("network/position_embs/")])
    for grain, name in enumerate(NAMES[grains]):
        yield from layer_entries(f"content_{name}_pos_emb", f"network/position_embs/{grain}", shapes)
    yield from layer_entries("content_emb", "network/content_emb", shapes)
    yield from layer_entries("seg_emb", "network/grain_emb", shapes)
    for name in ("position", "content"):
        yield from stack_entries(f"{name}_transformer", f"network/{name}_stack/blocks", shapes)
    for name in ("position", "content"):
        yield from layer_entries(f"{name}_head.0", f"network/{name}_head/norm", shapes)
        yield from layer_entries(f"{name}_head.1", f"network/{name}_head", shapes)


def held(state_dict: StateDict, _: DQTransformer) -> StateDict:
    """The transformer's part of a stage-2 state dict (or of its own), without the masks."""
    part = {key.removeprefix(PREFIX): tensor for key, tensor in state_dict.items() if key.startswith(PREFIX)}
    return {key: tensor for key, tensor in (part or state_dict).items() if not key.endswith(f".{MASK}")}


def with_masks(tensors: StateDict) -> dict[str, np.ndarray]:
    """The transformer's part of a stage-2 state dict, given its tensors; all masks are one and the same array."""
    state_dict, size = {}, tensors["pos_emb"].shape[1]
    mask = np.tril(np.ones((1, 1, size, size), np.float32))
    for key, tensor in tensors.items():
        if key.endswith(".attn.key.weight"):
            state_dict[PREFIX + key.replace("attn.key.weight", MASK)] = mask
        state_dict[PREFIX + key] = tensor
    return state_dict
