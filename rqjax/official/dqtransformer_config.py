"""The `model` section of an official DQ-Transformer configuration file, as a config of ours."""

from collections.abc import Collection, Mapping
from typing import Any

from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError
from rqjax.official.dqvae_options import ending, mapping, required

MODELS = {
    "dqtransformer_uncond_entropy.Dualformer": "uncond_stage_config",
    "dqtransformer_class2_entropy.Dualformer": "class_cond_stage_config",
}
"""Official classes, by the ends of their names, and where they say what a sequence starts with."""
TRAINING = {"base_learning_rate", "learning_rate", "min_learning_rate"}
IGNORED = {
    "first_stage_config",
    "weight_decay",
    "warmup_epochs",
    "monitor",
    "ckpt_path",
    "ignore_keys",
    "scheduler_type",
}
"""Options that say nothing about the transformer; the first stage is read by `dqvae_config`."""
OPTIONS = {
    *("transformer_config", "permuter_config", "content_loss_weight", "position_loss_weight"),
    *("activate_sos_for_fine_sequence", *IGNORED),
}
OURS = {
    **{"n_embd": "dim", "n_head": "heads", "position_layer": "position_layers", "content_layer": "content_layers"},
    **{"block_size": "block_size", "embd_pdrop": "embedding_dropout", "resid_pdrop": "dropout"},
    **{"attn_pdrop": "attention_dropout"},
}
"""What we call the transformer's own options."""
SIZES = {"vocab_size", "coarse_position_size", "fine_position_size", "segment_size"}
PADS = {"content_pad_code", "coarse_position_pad_code", "fine_position_pad_code"}
ENDS = {"content_eos_code", "coarse_position_eos_code", "fine_position_eos_code"}
SEGMENTS = {"coarse_seg_sos": 0, "fine_seg_sos": 1}
STARTS = {
    "PositionAwareSOSProvider": {"coarse_sos", "coarse_pos_sos", "fine_sos", "fine_pos_sos", *SEGMENTS},
    "ClassAwareSOSProvider": {
        *("n_classes", "threshold_content", "threshold_coarse_position", "threshold_fine_position", *SEGMENTS),
    },
}
"""The official providers of start tokens, and their options."""
PROVIDERS = {"uncond_stage_config": "PositionAwareSOSProvider", "class_cond_stage_config": "ClassAwareSOSProvider"}


def dqtransformer_config(model: Mapping[str, Any]) -> DQTransformerConfig:
    """Our config for the `model` section of an official file (a mapping with `target` and `params`).

    Training options are accepted and left to the stage; images are not packed. Raises InputError naming unknown keys
    and missing ones, and for special codes of its parts that disagree.
    """
    _refuse_unknown(model, "model", {"target", "params", *TRAINING})
    start = MODELS[ending(model, "model", MODELS)]
    params = mapping(model, "model", "params")
    _refuse_unknown(params, "model.params", OPTIONS | {start})
    network = _part(params, "transformer_config", "StackGPT", {*OURS, *SIZES, *PADS, "activate_pad_ignore"})
    grids = _part(
        params,
        "permuter_config",
        "DualGrainSeperatePermuter",
        {"coarse_hw", "fine_hw", "fine_position_order"} | PADS | ENDS,
    )
    starts = _part(params, start, PROVIDERS[start], STARTS[PROVIDERS[start]])
    config = DQTransformerConfig(
        grids=tuple(required(grids, "permuter_config", name) for name in ("coarse_hw", "fine_hw")),
        codebook_size=required(grids, "permuter_config", "content_pad_code"),
        classes=required(starts, start, "n_classes") if start == "class_cond_stage_config" else 0,
        order=grids.get("fine_position_order", "region-first"),
        **{ours: required(network, "transformer_config", name) for name, ours in OURS.items()},
        dtype="float32",
        remat=False,
        pack=False,
        row_length=0,
        rows_per_image=1.0,
        pack_groups=1,
        loss_chunk=128,
        position_loss_weight=params.get("position_loss_weight", 1.0),
        content_loss_weight=params.get("content_loss_weight", 1.0),
    )
    config.check()
    _check_codes(config, {"transformer_config": network, "permuter_config": grids, start: starts, "params": params})
    return config


def _check_codes(config: DQTransformerConfig, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError unless every part says what the grids and the codebook's size make of the special codes."""
    layout = config.layout
    pads = {"content_pad_code": layout.content_pad}
    ends = {"content_eos_code": layout.content_eos}
    for g, name in enumerate(("coarse", "fine")):
        pads[f"{name}_position_pad_code"] = layout.position_pad[g]
        ends[f"{name}_position_eos_code"] = layout.position_eos[g]
    content, (coarse, fine) = layout.content_sos, layout.position_sos
    sizes = {"vocab_size": layout.content_size, "segment_size": len(layout.grids)}
    sizes |= dict(zip(("coarse_position_size", "fine_position_size"), layout.position_sizes, strict=True))
    expected: dict[str, dict[str, Any]] = {
        "transformer_config": pads | sizes | {"activate_pad_ignore": True},
        "permuter_config": pads | ends,
        "uncond_stage_config": SEGMENTS
        | {"coarse_sos": content, "fine_sos": content, "coarse_pos_sos": coarse, "fine_pos_sos": fine},
        "class_cond_stage_config": SEGMENTS
        | {"threshold_content": content, "threshold_coarse_position": coarse, "threshold_fine_position": fine},
        "params": {"activate_sos_for_fine_sequence": True},
    }
    optional = {"activate_pad_ignore", "activate_sos_for_fine_sequence"}
    for part, options in parts.items():
        for name, value in expected[part].items():
            found = options.get(name, True) if name in optional else required(options, part, name)
            if found != value:
                raise InputError(f"{part}.{name} is {found!r}, the rest of this config makes it {value!r}: correct one")


def _part(params: Mapping[str, Any], name: str, target: str, options: Collection[str]) -> Mapping[str, Any]:
    part = mapping(params, "model.params", name)
    _refuse_unknown(part, name, {"target", "params"})
    ending(part, name, (f".{target}",))
    found = mapping(part, name, "params")
    _refuse_unknown(found, name, options)
    return found


def _refuse_unknown(section: Mapping[str, Any], name: str, options: Collection[str]) -> None:
    if unknown := [f"{name}.{key}" for key in section if key not in options]:
        raise InputError(f"unknown keys in this DQ-Transformer config: {', '.join(unknown)}: remove them")
