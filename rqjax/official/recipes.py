"""The run that an official file describes: the published recipe of its family, with the values of the file."""

import dataclasses
import math
from typing import TypeVar

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError
from rqjax.nets.discriminator import GANS
from rqjax.official.section import Section
from rqjax.optim import OptimizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config, load_file
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig

StageConfig = TypeVar("StageConfig", AutoencodeConfig, PredictConfig)

GPUS = 4
"""A100 that the published RQ models were trained on, each with one microbatch."""
IMAGES = {
    **{"imagenet": 1_281_167, "imagenet_u": 1_281_167, "ffhq": 60_000},
    **{"LSUN-cat": 1_657_266, "LSUN-church": 126_227, "LSUN-bedroom": 3_033_042},
    "cc3m": 3_318_333,  # captions of the list; fewer images can be downloaded
}
"""Training images of the data sets that official files name."""


def rqvae_run(model: RQVAEConfig, document: Section, reconstruction: str) -> Config:
    """The run of an RQ-VAE, described by the sections beside `arch`."""
    config, stage = _recipe("imagenet_rqvae", "10epochs", AutoencodeConfig)
    epoch, _ = _set_length(config, document)
    gan = document.section("gan", optional=True)
    gan.ignore("type")
    disc, loss = gan.section("disc", optional=True), gan.section("loss", optional=True)
    loss.expect(gen_loss="vanilla")
    arch = disc.section("arch", optional=True)
    arch.expect(in_channels=3, use_actnorm=False, spectral_norm=False)
    stage.model, stage.reconstruction = model, reconstruction
    stage.optimizer = _optimizer(document.section("optimizer", optional=True), stage.optimizer, epoch)
    stage.discriminator_optimizer = dataclasses.replace(stage.optimizer, clip_norm=0.0)
    if disc.has("optimizer"):
        stage.discriminator_optimizer = _optimizer(disc.section("optimizer"), stage.discriminator_optimizer, epoch)
    stage.disc_num_layers = arch.whole("num_layers", stage.disc_num_layers)
    stage.disc_start = round(_weight(loss, "disc_start", 0.0) * epoch)
    stage.disc_weight = stage.disc_loss_weight = _weight(loss, "disc_weight", stage.disc_weight)
    _set_adversary(stage, arch, loss)
    return config


def rqtransformer_run(model: RQTransformerConfig, document: Section) -> Config:
    """The run of an RQ-Transformer, described by the sections beside `arch`; its tokenizer is not known."""
    config, stage = _recipe("imagenet_rqtransformer", "1400m", PredictConfig)
    epoch, stage.accumulate = _set_length(config, document)
    stage.model, stage.tokenizer, stage.top_p = model, None, 1.0
    stage.optimizer = _optimizer(document.section("optimizer", optional=True), stage.optimizer, epoch)
    return config


def dqvae_run(model: DQVAEConfig, section: Section) -> Config:
    """The run of a DQ-VAE, described by its `model` section."""
    config, stage = _recipe("imagenet_dqvae", "dual_feature", AutoencodeConfig)
    stage.model, params = model, section.section("params")
    if params.section("lossconfig").text("target").endswith("DummyLoss"):  # of a tokenizer in a prior's file
        return config
    loss = params.section("lossconfig").section("params", optional=True)
    loss.expect(disc_conditional=False)
    disc = loss.section("disc_config", optional=True).section("params", optional=True)
    disc.expect(input_nc=3, use_actnorm=False)
    stage.disc_num_layers = disc.whole("n_layers", stage.disc_num_layers)
    epoch = config.save_every if params.flag("loss_with_epoch", True) else 1
    stage.disc_start = round(_weight(loss, "disc_start", 0.0) * epoch)
    _set_weights(stage, loss)
    _set_adversary(stage, disc, loss)
    return config


def _set_weights(stage: AutoencodeConfig, loss: Section) -> None:
    """Sets the weights of a DQ-VAE's adversarial losses, all of which `disc_factor` multiplies.

    Without `disc_adaptive_loss` the official weight is the cap itself, and a cap of 0, which for us is none, leaves no
    adversarial loss at all.
    """
    factor, weight = _weight(loss, "disc_factor", 1.0), _weight(loss, "disc_weight", 1.0)
    cap = _weight(loss, "disc_weight_max") if loss.has("disc_weight_max") else None
    stage.adaptive = loss.flag("disc_adaptive_loss", True)
    if not stage.adaptive:
        weight, cap = _weight(loss, "disc_weight_max"), None
    stage.disc_weight = 0.0 if cap == 0 else factor * weight
    stage.disc_weight_max = factor * (cap or 0.0)
    stage.disc_loss_weight = factor


def _weight(section: Section, key: str, default: float | None = None) -> float:
    """A number of at least 0."""
    if (found := section.number(key, default)) < 0:
        raise InputError(f"{section.place}.{key} is {found}: expected a number of at least 0")
    return found


def dqtransformer_run(model: DQTransformerConfig, tokenizer: DQVAEConfig, section: Section) -> Config:
    """The run of a DQ-Transformer, described by its `model` section."""
    config, stage = _recipe("imagenet_dqtransformer", "class", PredictConfig)
    stage.model, stage.tokenizer = model, tokenizer
    stage.optimizer.learning_rate = section.number("learning_rate", stage.optimizer.learning_rate)
    stage.optimizer.weight_decay = section.section("params").number("weight_decay", 0.01)
    return config


def _recipe(name: str, variant: str, kind: type[StageConfig]) -> tuple[Config, StageConfig]:
    config = load_file(name, variant)
    if not isinstance(config.stage, kind):
        raise TypeError(f"configs/{name}.py has a stage of type {type(config.stage).__name__}, not {kind.__name__}")
    return config, config.stage


def _set_length(config: Config, document: Section) -> tuple[int, int]:
    """Sets batch and steps of an RQ run; returns the steps of an epoch, and the microbatches of a step."""
    data, experiment = (document.section(name, optional=True) for name in ("dataset", "experiment"))
    data.ignore("transforms.type", "transform.type", "vocab_size", "vocab_size_txt", "txt_tok_name", "root")
    data.ignore("image_resolution", "context_length", "bpe_dropout")
    experiment.ignore("save_ckpt_freq", "test_freq", "amp", "sample.top_k", "sample.top_p")
    document.ignore("sampling.temp", "sampling.top_k", "sampling.top_p")
    images = IMAGES.get(data.text("type", data.text("dataset", "imagenet")), IMAGES["imagenet"])
    parallel = experiment.whole("batch_size", 32) * GPUS
    batch = experiment.whole("total_batch_size", parallel)
    epoch = math.ceil(images / batch)
    config.steps, config.data.batch = epoch * experiment.whole("epochs", 1), batch
    config.save_every = Config.save_every
    return epoch, max(batch // parallel, 1)


def _optimizer(section: Section, ours: OptimizerConfig, epoch: int) -> OptimizerConfig:
    """An RQ optimizer, where the file is silent as `ours`; a rate that ends where it begins is constant."""
    section.ignore("grad_accm_steps", "warmup.mode", "warmup.start_from_zero")
    warmup = section.section("warmup", optional=True)
    warmup.expect(multiplier=1, buffer_epoch=0)
    rate, end = section.number("init_lr", ours.learning_rate), warmup.number("min_lr", ours.min_learning_rate)
    b1, b2 = section.many("betas", Section.number, 2) if section.has("betas") else (ours.b1, ours.b2)
    return OptimizerConfig(
        name=section.text("type", ours.name).lower(),
        learning_rate=rate,
        b1=b1,
        b2=b2,
        weight_decay=section.number("weight_decay", ours.weight_decay),
        clip_norm=section.number("max_gn", ours.clip_norm),
        warmup_steps=round(warmup.number("epoch", 0.0) * epoch),
        schedule="constant" if rate == end else ours.schedule,
        min_learning_rate=end,
    )


def _set_adversary(stage: AutoencodeConfig, disc: Section, loss: Section) -> None:
    stage.disc_ndf = disc.whole("ndf", stage.disc_ndf)
    stage.gan = loss.text("disc_loss", stage.gan, choices=GANS)
    stage.perceptual_weight = _weight(loss, "perceptual_weight", stage.perceptual_weight)
