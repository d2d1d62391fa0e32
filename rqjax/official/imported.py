"""Imported models as runs: the configuration of their training, their discriminator, and tensors that ours lack."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from rqjax.dq.transformer import DQTransformerConfig
from rqjax.dq.vae import DQVAEConfig
from rqjax.errors import InputError
from rqjax.nets.discriminator import Discriminator
from rqjax.official import discriminator
from rqjax.official.documents import Official
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.rq.vae import RQVAEConfig
from rqjax.run.config import Config, load_file
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import checkpoint
from rqjax.store.safetensor_file import load_safetensors, save_safetensors

REST = "rest.safetensors"
"""Tensors of the official file that say nothing about the model: LPIPS, and running statistics of a discriminator."""
DISCRIMINATOR = "discriminator/"
"""What stands before the keys of an RQ file's `discriminator` there."""
DQ_DISCRIMINATOR = "loss.discriminator."


GPUS = 4
"""A100 that the published RQ models were trained on, each with one microbatch."""
IMAGENET = 1_281_167
"""Training images of ILSVRC-2012."""
RECIPES = {
    RQVAEConfig: "imagenet_rqvae",
    RQTransformerConfig: "imagenet_rqtransformer",
    DQVAEConfig: "imagenet_dqvae",
    DQTransformerConfig: "imagenet_dqtransformer",
}
"""The shipped configuration with the recipe of each family."""


def run_config(described: Official) -> Config:
    """The run that an official file describes: the published recipe of its family, with the values of the file."""
    model, training = described.model, dict(described.training)
    config = load_file(RECIPES[type(model)])
    stage = config.stage
    stage.model = model
    if isinstance(stage, PredictConfig):
        stage.tokenizer, stage.accumulate, stage.top_p = described.tokenizer, 1, 1.0
    one_gpu = training.pop("microbatch", 32)
    autoencode = isinstance(stage, AutoencodeConfig)
    batch = training.pop("data.batch", one_gpu * GPUS) if _is_rq(model) else config.data.batch
    images = training.pop("images", IMAGENET) or IMAGENET
    epoch = math.ceil(images / batch)
    length = training.pop("epochs", 1 if _is_rq(model) else 50 if autoencode else 100)
    warmup, start = (round(training.pop(name, 0) * epoch) for name in ("warmup_epochs", "start_epochs"))
    if not autoencode:
        stage.accumulate = max(batch // (one_gpu * GPUS), 1)
    optimizers = [stage.optimizer, stage.discriminator_optimizer] if autoencode else [stage.optimizer]
    for optimizer in optimizers if _is_rq(model) else []:
        optimizer.warmup_steps = warmup
    if autoencode and start:
        stage.disc_start = start
    config.steps, config.data.batch, config.save_every = max(epoch * length, 1), batch, Config.save_every
    for place, value in training.items():
        _set(config, place, value)
    for optimizer in optimizers:
        # a floor at the rate itself is a constant rate
        optimizer.schedule = (
            "constant" if optimizer.min_learning_rate == optimizer.learning_rate else optimizer.schedule
        )
    return config


def tokenizer_config(model: DQVAEConfig) -> Config:
    """The run of the first stage that a DQ prior's file describes."""
    return run_config(Official(model, None, {}, ""))


def _is_rq(model: Any) -> bool:
    return type(model).__name__.startswith("RQ")


def _set(config: Config, place: str, value: Any) -> None:
    """Sets a field by its dotted place, if this kind of stage has it."""
    *parents, name = place.split(".")
    section: Any = config
    for parent in parents:
        section = getattr(section, parent, None)
    if section is not None and hasattr(section, name):
        setattr(section, name, value)


def other_items(
    config: Config, contents: Mapping[str, Any], state_dict: Mapping[str, Any], ours: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an official file holds beside the model: our discriminator by name if there is one, and all that is left.

    `ours` is the state dict that our model gives back.
    """
    rest = {key: tensor for key, tensor in state_dict.items() if key not in ours and not _is_mask(key)}
    rest = {key: tensor for key, tensor in rest.items() if not key.startswith("first_stage_model.")}
    tensors = {key.removeprefix(DQ_DISCRIMINATOR): t for key, t in rest.items() if key.startswith(DQ_DISCRIMINATOR)}
    prefix = DQ_DISCRIMINATOR
    if isinstance(contents.get("discriminator"), Mapping):
        tensors, prefix = dict(contents["discriminator"]), DISCRIMINATOR
    if not tensors:
        return {}, rest
    if not isinstance(config.stage, AutoencodeConfig):
        raise InputError("the file holds a discriminator, but its configuration is that of a prior: give another one")
    sizes = config.stage.disc_ndf, config.stage.disc_num_layers
    critic = discriminator.from_torch(*sizes, tensors)
    held = {f"{prefix}{key}" for key in tensors if not key.endswith(discriminator.RUNNING)}
    rest |= {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    return {"discriminator": critic}, {key: tensor for key, tensor in rest.items() if key not in held}


def _is_mask(key: str) -> bool:
    return key.endswith(".attn.mask")


def save_rest(folder: pathlib.Path, rest: Mapping[str, Any]) -> None:
    """Keeps beside a model what its official file held more, so that it can go back there."""
    if rest:
        save_safetensors(folder / REST, {key: np.asarray(tensor) for key, tensor in rest.items()})


def contents(run: str, config: Config, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """An official checkpoint of a run: its model's state dict, its discriminator, and what its import had kept."""
    critic = _discriminator(run, config)
    path = pathlib.Path(run) / REST
    rest = load_safetensors(path)[0] if path.is_file() else {}
    prefix = DISCRIMINATOR if _is_rq(config.stage.model) else DQ_DISCRIMINATOR
    known = {f"{prefix}{key}": tensor for key, tensor in critic.items()} | rest
    apart = {key.removeprefix(DISCRIMINATOR): x for key, x in known.items() if key.startswith(DISCRIMINATOR)}
    inside = {key: tensor for key, tensor in known.items() if not key.startswith(DISCRIMINATOR)}
    return {"state_dict": {**state_dict, **inside}} | ({"discriminator": apart} if apart else {})


def _discriminator(run: str, config: Config) -> dict[str, np.ndarray]:
    """The official state dict of a run's discriminator; empty if it has none."""
    stage = config.stage
    if not isinstance(stage, AutoencodeConfig) or not checkpoint.has_item(run, "discriminator"):
        return {}
    sizes = stage.disc_ndf, stage.disc_num_layers
    abstract = jax.eval_shape(lambda: Discriminator(*sizes, rngs=nnx.Rngs(0)))
    return discriminator.to_torch(*sizes, checkpoint.restore_item(run, "discriminator", abstract))
