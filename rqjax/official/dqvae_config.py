"""The `model` section of an official DQ-VAE configuration file, as a config of ours."""

import re
from collections.abc import Mapping
from typing import Any

from rqjax.dq.routing import RoutingConfig
from rqjax.dq.vae import DQVAEConfig
from rqjax.errors import InputError
from rqjax.official.dqvae_options import BUDGETS, PARTS, ROUTERS, ending, known, mapping, one_of, required, sections
from rqjax.official.dqvae_thresholds import threshold

POSITIONS = {"fourier": "fourier", "fourier+learned": "fourier+learned", "learned": "none", "learned-relative": "none"}
"""The last two build tables that the reference never applies, so they add nothing."""
GATES = {"1layer-fc": (1, "silu"), "2layer-fc-SiLu": (2, "silu"), "2layer-fc-ReLu": (2, "relu")}


def dqvae_config(model: Mapping[str, Any], entropy_bins: str = "0_1") -> DQVAEConfig:
    """Our config for the `model` section of an official file (a mapping with `target` and `params`).

    Training options are accepted and left to the stage. The published tables and weights mean entropy bins "0_1".
    Raises InputError naming unknown keys, and for values that we do not support.
    """
    grains, params, parts = sections(model)
    encoder, decoder, quantizer = parts["encoder"], parts["decoder"], parts["quantizer"]
    resolution, ch_mult = required(encoder, "encoder", "resolution"), tuple(required(encoder, "encoder", "ch_mult"))
    patch = 2 ** (len(ch_mult) - 1)
    grids = tuple((resolution // patch) << g for g in range(grains))
    config = DQVAEConfig(
        resolution=resolution,
        ch_mult=ch_mult,
        **{key: required(encoder, "encoder", key) for key in ("ch", "num_res_blocks", "z_channels")},
        attn_resolutions=tuple(required(encoder, "encoder", "attn_resolutions")),
        decoder_ch=required(decoder, "decoder", "ch"),
        decoder_ch_mult=tuple(required(decoder, "decoder", "ch_mult")),
        decoder_num_res_blocks=required(decoder, "decoder", "num_res_blocks"),
        decoder_attn_resolutions=tuple(required(decoder, "decoder", "attn_resolutions")),
        position=_position(params["decoderconfig"], decoder),
        window_size=decoder.get("window_size", 2),
        embed_dim=required(quantizer, "quantizer", "codebook_dim"),
        codebook_size=required(quantizer, "quantizer", "codebook_size"),
        decay=float(quantizer.get("decay", 0.99)),
        restart_threshold=1.0 if quantizer.get("restart_unused_codes", True) else 0.0,
        commitment_weight=float(quantizer.get("commitment_beta", 0.25)),
        grains=grains,
        routing=_routing(grids, patch, encoder, parts["loss"], entropy_bins),
        dtype="float32",
        remat=False,
    )
    for name, found, expected in _redundant(config, params, parts):
        if found != expected:
            raise InputError(f"{name} is {found!r}, the rest of this config makes it {expected!r}: correct one of them")
    config.check()
    return config


def _position(part: Mapping[str, Any], decoder: Mapping[str, Any]) -> str:
    """What the reference's decoder adds to its input: nothing for two of the four types, whose tables it holds."""
    if ending(part, "decoderconfig", PARTS["decoder"][1]) == "Decoder.Decoder":
        return "none"
    kind = required(decoder, "decoder", "position_type")
    if kind not in POSITIONS:
        raise InputError(f"decoder.position_type is {kind!r}: expected one of {', '.join(POSITIONS)}")
    return POSITIONS[kind]


def _routing(
    grids: tuple[int, ...], patch: int, encoder: Mapping[str, Any], loss: Mapping[str, Any], entropy_bins: str
) -> RoutingConfig:
    router = encoder["router_config"]
    kind, params = ending(router, "router_config", ROUTERS), router.get("params") or {}
    known(params, "router", ROUTERS[kind])
    by_entropy = "Entropy" in kind
    if encoder.get("update_router", True) == by_entropy:
        raise InputError(f"encoder.update_router is {by_entropy}: expected {not by_entropy} with {kind}")
    gate, weight, groups = (2, "silu"), 0.0, 0
    thresholds: tuple[float, ...] = ()
    if by_entropy:
        ratios = (_fine_ratio(params),)
        thresholds = (threshold(str(required(params, "router", "json_path")), ratios[0], entropy_bins, patch),)
    else:
        gate = GATES[one_of(params.get("gate_type", "1layer-fc"), "router.gate_type", GATES)]
        groups = _groups(str(params.get("normalization_type", "none")))
        ratios, weight = _budget(grids, loss.get("budget_loss_config"))
    return RoutingConfig(
        router="entropy" if by_entropy else "feature",
        exact_ratio=False,
        ratios=ratios,
        budget_weight=weight,
        groups=groups,
        layers=gate[0],
        activation=gate[1],
        entropy_bins=entropy_bins,
        thresholds=thresholds,
    )


def _fine_ratio(params: Mapping[str, Any]) -> float:
    """The ratio under either spelling."""
    found = {float(params[key]) for key in ("fine_grain_ratito", "fine_grain_ratio") if key in params}
    if len(found) != 1:
        raise InputError(f"router.fine_grain_ratito is {sorted(found) or 'missing'}: give one value, from 0 to 1")
    return found.pop()


def _groups(normalisation: str) -> int:
    if normalisation == "none":
        return 0
    if not re.fullmatch(r"group-[1-9][0-9]*", normalisation):
        raise InputError(f"router.normalization_type is {normalisation!r}: expected none, or group- and a number")
    return int(normalisation.removeprefix("group-"))


def _budget(grids: tuple[int, ...], budget: Mapping[str, Any] | None) -> tuple[tuple[float, ...], float]:
    """The shares that the budget pulls to, and its weight; without one the shares mean nothing."""
    if budget is None:
        return (0.0,) * (len(grids) - 1), 0.0
    kind = ending(budget, "budget_loss_config", BUDGETS)
    params = mapping(budget, "budget_loss_config", "params")
    names, sizes = BUDGETS[kind]
    known(params, "budget", {*names, *sizes, "gamma", "calculate_all"})
    found = tuple(params.get(name, default) for name, default in sizes.items())
    if found != grids:
        raise InputError(f"the budget's grain sizes are {found}: the encoder's grids have {grids}")
    weight = float(params.get("gamma", 1.0))
    # the reference's dual loss is the doubled one that ours is, unless it is told not to
    halved = len(grids) == 2 and not params.get("calculate_all", True)
    return tuple(float(params.get(name, 0.0)) for name in names), weight / 2 if halved else weight


def _redundant(
    config: DQVAEConfig, params: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, Any, Any]]:
    """What official files say twice: the name, what is found there, and what the rest of the file makes it."""
    decoder, router = parts["decoder"], parts["encoder"]["router_config"].get("params") or {}
    said = [
        ("model.params.quant_before_dim", params, config.z_channels),
        ("model.params.quant_after_dim", params, config.embed_dim),
        ("model.params.entropy_patch_size", params, config.patch),
        ("model.params.image_size", params, config.resolution),
        ("decoder.in_ch", decoder, config.z_channels),
        ("decoder.resolution", decoder, config.resolution),
        ("decoder.latent_size", decoder, config.grids[-1]),
        ("router.num_channels", router, config.z_channels),
    ]
    return [(name, section.get(name.split(".")[-1], expected), expected) for name, section, expected in said]
