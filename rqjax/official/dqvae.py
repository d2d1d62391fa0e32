"""The official DQ-VAE: its `model` section as a config of ours, and its state dict as a model of ours, both ways."""

import re

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.dq.vae import DQVAE
from rqjax.errors import InputError
from rqjax.official.layers import autoencoder_entries
from rqjax.official.section import AGREE, Section
from rqjax.official.thresholds import RELEASED, Entropy
from rqjax.torchfile.table import Entry, Shapes, StateDict, shapes_of

MODELS = {
    "dqvae_dual_feat.DualGrainVQModel": 2,
    "dqvae_dual_entropy.DualGrainVQModel": 2,
    "dqvae_triple_feat.TripleGrainVQModel": 3,
}
"""Official classes, by the ends of their names, and how many grains they have."""
ENCODERS = ("EncoderDual.DualGrainEncoder", "EncoderTriple.TripleGrainEncoder")
IGNORED = (
    *("quant_sample_temperature", "ckpt_path", "ignore_keys", "image_key", "monitor"),
    *("warmup_epochs", "loss_with_epoch", "scheduler_type"),
)
LOSS = (
    *("disc_start", "disc_config", "disc_init", "pixelloss_weight", "disc_factor", "disc_weight", "perceptual_weight"),
    *("disc_conditional", "disc_loss", "disc_weight_max", "disc_adaptive_loss"),
)
"""Options of the model and of its loss that say nothing about the arrays."""
GATES = {"1layer-fc": (1, "silu"), "2layer-fc-SiLu": (2, "silu"), "2layer-fc-ReLu": (2, "relu")}
POSITIONS = {
    **{"fourier": "fourier", "fourier+learned": "fourier+learned"},
    **{"learned": "unapplied", "learned-relative": "unapplied-relative"},
}
"""The last two build tables that the release never applies, so they add nothing."""
BUDGETS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "budget.BudgetConstraint_RatioMSE_DualGrain": (("target_ratio",), {"min_grain_size": 8, "max_grain_size": 16}),
    "budget.BudgetConstraint_NormedSeperateRatioMSE_TripleGrain": (
        ("target_median_ratio", "target_fine_ratio"),
        {"min_grain_size": 8, "median_grain_size": 16, "max_grain_size": 32},
    ),
}
"""The shares that each budget is told, coarser first, and the grids that it takes for granted if it isn't told."""

_ENCODER, _DECODER, _QUANTIZER = (f"params.{name}.params" for name in ("encoderconfig", "decoderconfig", "vqconfig"))
NAMES = {
    **{name: f"{_ENCODER}.{name}" for name in ("resolution", "ch", "num_res_blocks", "z_channels")},
    **{name: f"{_ENCODER}.{name}" for name in ("ch_mult", "attn_resolutions")},
    **{f"decoder_{name}": f"{_DECODER}.{name}" for name in ("ch", "num_res_blocks", "ch_mult", "attn_resolutions")},
    **{"embed_dim": f"{_QUANTIZER}.codebook_dim", "codebook_size": f"{_QUANTIZER}.codebook_size"},
    **{"decay": f"{_QUANTIZER}.decay", "commitment_weight": f"{_QUANTIZER}.commitment_beta"},
    "groups": f"{_ENCODER}.router_config.params.normalization_type",
    **{"ratios": "params.lossconfig.params.budget_loss_config.params", "windows": f"{_DECODER}.window_size"},
}
"""The options, by our fields, that errors of our check may be about."""


def dqvae_config(model: object, place: str = "model", entropy: Entropy = RELEASED) -> DQVAEConfig:
    """Our config for the `model` section of an official file, which is at `place` there.

    `entropy` says of a model with an entropy router what the file does not.
    Options of training are accepted and left to others. Raises InputError for unknown keys and unsupported values.
    """
    top = Section(model, place)
    top.ignore("base_learning_rate", "learning_rate", "min_learning_rate")
    kind, params = top.instance(*MODELS)
    params.ignore(*IGNORED)
    _, encoder = params.section("encoderconfig").instance(*ENCODERS)
    encoder.expect(dropout=0, resamp_with_conv=True, in_channels=3)
    position, decoder = _decoder(params.section("decoderconfig"))
    _, quantizer = params.section("vqconfig").instance("quantize2_mask.VectorQuantize2")
    quantizer.expect(accept_image_fmap=True, channel_last=False)
    quantizer.ignore("quant_sample_temperature", "temp")
    config = DQVAEConfig(
        **encoder.take(Section.whole, "resolution", "ch", "num_res_blocks", "z_channels"),
        **encoder.take(Section.wholes, "ch_mult", "attn_resolutions"),
        **decoder.take(Section.whole, decoder_ch="ch", decoder_num_res_blocks="num_res_blocks"),
        **decoder.take(Section.wholes, decoder_ch_mult="ch_mult", decoder_attn_resolutions="attn_resolutions"),
        **quantizer.take(Section.whole, embed_dim="codebook_dim", codebook_size="codebook_size"),
        position=position,
        window_size=decoder.whole("window_size", 2),
        decay=quantizer.number("decay", 0.99),
        restart_threshold=1.0 if quantizer.flag("restart_unused_codes", True) else 0.0,
        commitment_weight=quantizer.number("commitment_beta", 0.25),
        grains=MODELS[kind],
    )
    coarse = max(config.resolution >> max(len(config.ch_mult) - 1, 0), 1)
    grids, patch = tuple(coarse << grain for grain in range(config.grains)), config.resolution // coarse
    decoder.expect(AGREE, in_ch=config.z_channels, resolution=config.resolution, latent_size=grids[-1])
    params.expect(AGREE, quant_before_dim=config.z_channels, quant_after_dim=config.embed_dim)
    if by_entropy := "entropy" in kind:
        params.expect(AGREE, entropy_patch_size=patch, image_size=config.resolution)
    loss = _loss(params.section("lossconfig"))
    config.routing = _by_entropy(encoder, patch, entropy) if by_entropy else _by_features(encoder, loss, grids)
    top.finish()
    top.check(config.check, **NAMES)
    return config


def _decoder(part: Section) -> tuple[str, Section]:
    """Our kind of the positions that the release's decoder adds or only holds, and its options."""
    kind, decoder = part.instance("DecoderPositional.Decoder", "Decoder.Decoder")
    decoder.expect(out_ch=3, dropout=0, resamp_with_conv=True, give_pre_end=False)
    if kind == "Decoder.Decoder":
        decoder.ignore("position_type")
        return "none", decoder
    return POSITIONS[decoder.text("position_type", choices=POSITIONS)], decoder


def _loss(part: Section) -> Section:
    """The options of the loss, of which only the budget says something about the model."""
    _, loss = part.instance("vqperceptual_multidisc.VQLPIPSWithDiscriminator", "vqperceptual.DummyLoss")
    loss.expect(codebook_weight=1)
    loss.ignore(*LOSS)
    return loss


def _by_entropy(encoder: Section, patch: int, entropy: Entropy) -> RoutingConfig:
    _, router = encoder.section("router_config").instance("RouterDual.DualGrainFixedEntropyRouter")
    encoder.expect(AGREE, required=True, update_router=False)
    spellings = [key for key in ("fine_grain_ratito", "fine_grain_ratio") if router.has(key)] or ["fine_grain_ratito"]
    if len(ratios := {router.number(key) for key in spellings}) != 1:
        raise InputError(f"fine_grain_ratito and fine_grain_ratio are {sorted(ratios)}: give one of them")
    ratio = ratios.pop()
    if not 0.0 <= ratio <= 1.0:
        option = f"{router.place}.{spellings[0]}"
        raise InputError(f"{option} is {ratio}: expected the share of fine regions, in [0, 1]")
    cut = entropy.threshold(router.text("json_path"), ratio, patch)
    return RoutingConfig(
        router="entropy", ratios=(ratio,), budget_weight=0.0, groups=0, entropy_bins=entropy.bins, thresholds=(cut,)
    )


def _by_features(encoder: Section, loss: Section, grids: tuple[int, ...]) -> RoutingConfig:
    kinds = ("RouterDual.DualGrainFeatureRouter", "RouterTriple.TripleGrainFeatureRouter")
    _, router = encoder.section("router_config").instance(*kinds)
    encoder.expect(AGREE, update_router=True)
    router.expect(AGREE, num_channels=encoder.whole("z_channels"))
    layers, activation = GATES[router.text("gate_type", "1layer-fc", choices=GATES)]
    groups = router.text("normalization_type", "none")
    if not (found := re.fullmatch("none|group-([1-9][0-9]{0,8})", groups)):
        raise InputError(f"normalization_type of the router is {ascii(groups)[:80]}: expected none, or group-NUMBER")
    groups = int(found[1] or 0)
    ratios, weight = _budget(loss, grids)
    return RoutingConfig(ratios=ratios, budget_weight=weight, groups=groups, layers=layers, activation=activation)


def _budget(loss: Section, grids: tuple[int, ...]) -> tuple[tuple[float, ...], float]:
    """The shares that the budget pulls to, and its weight; without one the shares mean nothing."""
    if not loss.has("budget_loss_config"):
        return (0.0,) * (len(grids) - 1), 0.0
    kind, budget = loss.section("budget_loss_config").instance(*BUDGETS)
    names, sizes = BUDGETS[kind]
    found = tuple(budget.whole(name, default) for name, default in sizes.items())
    if found != grids:
        raise InputError(f"the budget's grain sizes are {found}: the encoder's grids have {grids}")
    weight = budget.number("gamma", 1.0)
    if not budget.flag("calculate_all", True) and len(grids) == 2:
        weight /= 2  # the release's dual loss is the doubled one that ours is, unless it is told not to
    return tuple(budget.number(name, 0.0) for name in names), weight


def entries(model: DQVAE) -> list[Entry]:
    """Where each tensor lives; `model` may hold shapes.

    Raises InputError for networks of patches, and for positions that the release never adds.
    """
    if not isinstance(model.config, DQVAEConfig):
        raise InputError("transformers over patches have no official form: use `convert --to_safetensors`")
    shapes, position = shapes_of(model), model.config.position
    if position in ("learned", "learned-relative"):
        raise InputError(
            f"position is {position!r}, which the official code holds but never adds: export it to safetensors instead"
        )
    return autoencoder_entries(shapes, {"quantize.codebook": "quantizer"}, _renames(shapes))


def _renames(shapes: Shapes) -> dict[str, str]:
    """Our module names that differ from the official ones: counted through an activation, or alone of their kind."""
    has = lambda part: any(part in path for path in shapes)  # noqa: E731
    renames = {"position_bias_fourier.conv": "position_bias_fourier.lff.ffm.conv"}
    if has("position_bias_fourier") != has("position_bias_learned"):
        renames |= {"position_bias_fourier": "position_bias", "position_bias_learned": "position_bias"}
    return renames | ({"gate.1": "gate.2"} if has("router/gate/1") else {"gate.0": "gate"})


def held(state_dict: StateDict, _: DQVAE) -> StateDict:
    """The state dict without its losses."""
    return {key: tensor for key, tensor in state_dict.items() if not key.startswith("loss.")}
