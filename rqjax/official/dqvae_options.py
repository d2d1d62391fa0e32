"""What an official DQ-VAE configuration file may say: its parts, their options, and the values that we support."""

from collections.abc import Collection, Mapping
from typing import Any

from rqjax.errors import InputError

MODELS = {
    "dqvae_dual_feat.DualGrainVQModel": 2,
    "dqvae_dual_entropy.DualGrainVQModel": 2,
    "dqvae_triple_feat.TripleGrainVQModel": 3,
}
"""Official classes, by the ends of their names, and how many grains they have."""
TRAINING = {"base_learning_rate", "learning_rate", "min_learning_rate"}
IGNORED = {
    *("quant_sample_temperature", "ckpt_path", "ignore_keys", "image_key", "monitor"),
    *("warmup_epochs", "loss_with_epoch", "scheduler_type"),
}
"""Options of a model that say nothing about it."""
OPTIONS = {
    *("encoderconfig", "decoderconfig", "lossconfig", "vqconfig", "quant_before_dim", "quant_after_dim"),
    *IGNORED,
}
PARTS = {
    "encoder": (
        "encoderconfig",
        ("EncoderDual.DualGrainEncoder", "EncoderTriple.TripleGrainEncoder"),
        {
            *("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout", "resamp_with_conv", "in_channels"),
            *("resolution", "z_channels", "router_config", "update_router"),
        },
    ),
    "decoder": (
        "decoderconfig",
        ("DecoderPositional.Decoder", "Decoder.Decoder"),
        {
            *("ch", "in_ch", "out_ch", "ch_mult", "num_res_blocks", "resolution", "attn_resolutions", "dropout"),
            *("resamp_with_conv", "give_pre_end", "latent_size", "window_size", "position_type"),
        },
    ),
    "quantizer": (
        "vqconfig",
        ("quantize2_mask.VectorQuantize2",),
        {
            *("codebook_size", "codebook_dim", "commitment_beta", "decay", "restart_unused_codes"),
            *("accept_image_fmap", "channel_last", "quant_sample_temperature", "temp"),
        },
    ),
    "loss": (
        "lossconfig",
        ("vqperceptual_multidisc.VQLPIPSWithDiscriminator", "vqperceptual.DummyLoss"),
        {
            *("disc_start", "disc_config", "disc_init", "codebook_weight", "pixelloss_weight", "disc_factor"),
            *("disc_weight", "perceptual_weight", "disc_conditional", "disc_loss", "disc_weight_max"),
            *("disc_adaptive_loss", "budget_loss_config"),
        },
    ),
}
"""Each part's key in the file, its classes and its options."""
ROUTERS = {
    "RouterDual.DualGrainFeatureRouter": {"num_channels", "normalization_type", "gate_type"},
    "RouterTriple.TripleGrainFeatureRouter": {"num_channels", "normalization_type", "gate_type"},
    "RouterDual.DualGrainFixedEntropyRouter": {"json_path", "fine_grain_ratito", "fine_grain_ratio"},
}
BUDGETS: Mapping[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "budget.BudgetConstraint_RatioMSE_DualGrain": (("target_ratio",), {"min_grain_size": 8, "max_grain_size": 16}),
    "budget.BudgetConstraint_NormedSeperateRatioMSE_TripleGrain": (
        ("target_median_ratio", "target_fine_ratio"),
        {"min_grain_size": 8, "median_grain_size": 16, "max_grain_size": 32},
    ),
}
"""The shares that each budget is told, coarser first, and the grids that it takes for granted if it isn't told."""
FIXED = {
    "encoder.dropout": 0,
    "encoder.resamp_with_conv": True,
    "encoder.in_channels": 3,
    "decoder.out_ch": 3,
    "decoder.dropout": 0,
    "decoder.resamp_with_conv": True,
    "decoder.give_pre_end": False,
    "quantizer.accept_image_fmap": True,
    "quantizer.channel_last": False,
    "loss.codebook_weight": 1,
}
"""Options of which every published model has this value; no other is supported."""


def sections(model: Mapping[str, Any]) -> tuple[int, Mapping[str, Any], dict[str, Mapping[str, Any]]]:
    """How many grains there are, the model's options, and those of each of its parts, all known and supported."""
    known(model, "model", {"target", "params", *TRAINING})
    kind = ending(model, "model", MODELS)
    params = mapping(model, "model", "params")
    known(params, "model.params", OPTIONS | ({"entropy_patch_size", "image_size"} if "entropy" in kind else set()))
    found = {}
    for name, (key, targets, options) in PARTS.items():
        part = mapping(params, "model.params", key)
        known(part, key, {"target", "params"})
        ending(part, key, targets)
        found[name] = part.get("params") or {}
        known(found[name], name, options)
    for name, expected in FIXED.items():
        section, key = name.split(".")
        if (value := found[section].get(key, expected)) != expected:
            raise InputError(f"{name} is {value!r}: only {expected!r} is supported")
    router = mapping(found["encoder"], "encoder", "router_config")
    if ("entropy" in kind) != ("Entropy" in ending(router, "router_config", ROUTERS)):
        raise InputError(f"{kind} with {router['target']}: the entropy model and its router go together")
    return MODELS[kind], params, found


def known(section: Mapping[str, Any], name: str, options: Collection[str]) -> None:
    """Raises InputError naming every key of a section that is not among the options."""
    if unknown := [f"{name}.{key}" for key in section if key not in options]:
        raise InputError(f"unknown keys in this DQ-VAE config: {', '.join(unknown)}: remove them if they mean nothing")


def mapping(section: Mapping[str, Any], name: str, key: str) -> Mapping[str, Any]:
    """The section under a key, or InputError."""
    if not isinstance(section.get(key), Mapping):
        raise InputError(f"{name}.{key} is {section.get(key)!r}: expected a section of options")
    return section[key]


def required(section: Mapping[str, Any], name: str, key: str) -> Any:
    """The value under a key, or InputError."""
    if key not in section:
        raise InputError(f"{name}.{key} is missing: copy it from the official config")
    return section[key]


def one_of(value: Any, name: str, choices: Collection[str]) -> str:
    """The value itself if it is one of the choices, else InputError."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}: expected one of {', '.join(choices)}")
    return value


def ending(section: Mapping[str, Any], name: str, choices: Collection[str]) -> str:
    """Which of the official classes a section's target is; they are known by the ends of their names."""
    target = str(section.get("target"))
    return one_of(next((choice for choice in choices if target.endswith(choice)), target), f"{name}.target", choices)
