"""What the official files say beside the model: known keys, the few supported values, and where ours has the same."""

from collections.abc import Callable, Mapping
from typing import Any

RQ_WHOLE = ("arch", "vqvae", "runtime", "seed")
"""Sections that are read elsewhere, or that the trainer adds to what it saves."""
IMAGES = {
    "imagenet": 1_281_167,
    "imagenet_u": 1_281_167,
    "ffhq": 60_000,
    "LSUN-cat": 1_657_266,
    "LSUN-church": 126_227,
    "LSUN-bedroom": 3_033_042,
    "cc3m": 3_318_333,  # captions of the list; fewer images can be downloaded
}
"""Training images of the data sets that official files name."""


def _both(name: str) -> tuple[str, str]:
    return f"stage.optimizer.{name}", f"stage.discriminator_optimizer.{name}"


RQ_TRAINING: Mapping[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "dataset.type": (("images",), lambda name: IMAGES.get(name, 0)),
    "dataset.dataset": (("images",), lambda name: IMAGES.get(name, 0)),
    "experiment.epochs": (("epochs",), int),
    "experiment.batch_size": (("microbatch",), int),
    "experiment.total_batch_size": (("data.batch",), int),
    "optimizer.type": (_both("name"), str.lower),
    "optimizer.init_lr": (_both("learning_rate"), float),
    "optimizer.weight_decay": (_both("weight_decay"), float),
    "optimizer.warmup.min_lr": (_both("min_learning_rate"), float),
    "optimizer.warmup.epoch": (("warmup_epochs",), float),
    "optimizer.max_gn": (("stage.optimizer.clip_norm",), float),
    "gan.disc.arch.num_layers": (("stage.disc_num_layers",), int),
    "gan.disc.arch.ndf": (("stage.disc_ndf",), int),
    "gan.loss.disc_loss": (("stage.gan",), str),
    "gan.loss.disc_weight": (("stage.disc_weight", "stage.disc_loss_weight"), float),
    "gan.loss.perceptual_weight": (("stage.perceptual_weight",), float),
    "gan.loss.disc_start": (("start_epochs",), float),
}
"""An official key, the places of our run's configuration that mean the same, and how the value is read."""
RQ_FIXED = {
    "gan.disc.arch.in_channels": 3,
    "gan.disc.arch.use_actnorm": False,
    "gan.disc.arch.spectral_norm": False,
    "gan.loss.gen_loss": "vanilla",
    "optimizer.warmup.multiplier": 1,
    "optimizer.warmup.buffer_epoch": 0,
}
"""Options of which every published model has this value; no other is supported."""
OPTIMIZER = (
    *("type", "init_lr", "weight_decay", "betas", "max_gn", "grad_accm_steps"),
    *(f"warmup.{key}" for key in ("epoch", "multiplier", "buffer_epoch", "min_lr", "mode", "start_from_zero")),
)
RQ_KNOWN = {
    *RQ_TRAINING,
    *RQ_FIXED,
    *(f"optimizer.{key}" for key in OPTIMIZER),
    *(f"gan.disc.optimizer.{key}" for key in OPTIMIZER),
    *("gan.type", "dataset.transforms", "dataset.transforms.type", "dataset.transform.type", "dataset.vocab_size"),
    *("dataset.vocab_size_txt", "dataset.txt_tok_name", "dataset.image_resolution", "dataset.context_length"),
    *("dataset.bpe_dropout", "dataset.root", "experiment.save_ckpt_freq", "experiment.test_freq", "experiment.amp"),
    *("experiment.sample.top_k", "experiment.sample.top_p", "sampling.temp", "sampling.top_k", "sampling.top_p"),
    *("loss.type", "loss.stochastic_codes", "loss.temp", "loss.txt_weight", "loss.img_weight"),
}
"""All keys outside of RQ_WHOLE, under dotted names."""

DQ_ORDER = (
    *("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv", "conv_in", "down", "mid", "up"),
    *(f"{part}_{grain}" for grain in ("coarse", "median", "fine") for part in ("mid", "norm_out", "conv_out")),
    *("router", "norm_out", "conv_out", "position_bias_fourier", "position_bias_learned", "position_bias"),
    *("block", "attn", "downsample", "upsample", "block_1", "attn_1", "block_2"),
    *("norm1", "conv1", "norm2", "conv2", "nin_shortcut", "norm", "q", "k", "v", "proj_out"),
    *("gate", "feature_norm_fine", "feature_norm_median", "feature_norm_coarse", "row_embed", "col_embed"),
    *("codebook", "lff", "ffm", "conv", "weight", "bias", "cluster_size_ema", "embed_ema"),
)
"""Names in DQ-VAE state dicts, each after those that its siblings have before it in official files."""


def dq_rank(key: str) -> list[int]:
    """Where an official DQ-VAE file has a key among the others."""
    return [int(word) if word.isdigit() else DQ_ORDER.index(word) for word in key.split(".")]


DQ_LOSS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "disc_loss": ("stage.gan", str),
    "disc_weight": ("stage.disc_weight", float),
    "disc_weight_max": ("stage.disc_weight_max", float),
    "perceptual_weight": ("stage.perceptual_weight", float),
    "disc_adaptive_loss": ("stage.adaptive", bool),
}


def dq_training(model: Mapping[str, Any], prior: bool) -> dict[str, Any]:
    """What a DQ `model` section, whose keys are known to be right, says about training, by places of ours."""
    params = model["params"]
    if prior:
        found = {"stage.optimizer.learning_rate": model.get("learning_rate")}
        found["stage.optimizer.weight_decay"] = params.get("weight_decay", 0.01)
        return {place: float(value) for place, value in found.items() if value is not None}
    loss = params["lossconfig"].get("params") or {}
    found = {place: convert(loss[key]) for key, (place, convert) in DQ_LOSS.items() if loss.get(key) is not None}
    disc = (loss.get("disc_config") or {}).get("params") or {}
    sizes = {"stage.disc_ndf": disc.get("ndf"), "stage.disc_num_layers": disc.get("n_layers")}
    return found | {place: int(value) for place, value in sizes.items() if value is not None}
