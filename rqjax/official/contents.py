"""The contents of an official checkpoint file: a state dict, a discriminator, and tensors that no model of ours has."""

import pathlib
from collections.abc import Collection, Mapping

import numpy as np

from rqjax.errors import InputError
from rqjax.nets.discriminator import Discriminator
from rqjax.official import discriminator
from rqjax.official.convert import FIRST_STAGE
from rqjax.official.dqtransformer import PREFIX
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.run.config import Config
from rqjax.run.directory import Run
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.store.safetensor_file import check_sums, load_safetensors
from rqjax.torchfile.table import StateDict

REST = "rest.safetensors"
"""Beside an imported model, so that it can go back: LPIPS, a discriminator's running statistics, and the like."""
APART = "discriminator/"
"""The prefix there of the keys of an RQ file's `discriminator`, which is beside the state dict."""
INSIDE = "loss.discriminator."
"""The prefix of the discriminator's keys in a DQ state dict."""


def weights(contents: object, ema: bool) -> StateDict:
    """The state dict in what a .pt or .ckpt file holds: that of a trainer's checkpoint, or the file is one itself.

    Raises InputError if there is none, or if it holds anything but tensors by name.
    """
    if not isinstance(contents, Mapping):
        raise InputError(f"the file holds a {type(contents).__name__}: expected a checkpoint with a state_dict")
    name = "state_dict_ema" if ema else "state_dict"
    found = contents.get(name)
    if found is None and not ema and contents and all(isinstance(value, np.ndarray) for value in contents.values()):
        found = contents
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"the file holds no {name}, only {', '.join(sorted(map(ascii, contents))[:8])}")
    if wrong := [ascii(key)[:60] for key, value in found.items() if not isinstance(value, np.ndarray)]:
        raise InputError(f"the state_dict holds other things than tensors: {', '.join(wrong[:5])}")
    return found


def other_items(
    config: Config, contents: Mapping[str, object], state_dict: StateDict, ours: Collection[str]
) -> tuple[dict[str, Discriminator], dict[str, np.ndarray]]:
    """The rest of a file beside the model: our discriminator by name if there is one, and all other tensors.

    `ours` are the keys that our model gives back. The sizes of the discriminator in `config` become those of the file.
    """
    rest = {key: x for key, x in state_dict.items() if key not in ours and PREFIX + key not in ours}
    rest = {key: x for key, x in rest.items() if not key.startswith(FIRST_STAGE)}
    apart = contents.get("discriminator")
    if isinstance(apart, Mapping):
        rest |= {APART + key: x for key, x in apart.items()}
    prefix = APART if isinstance(apart, Mapping) else INSIDE
    tensors = {key.removeprefix(prefix): x for key, x in rest.items() if key.startswith(prefix)}
    if not tensors:
        return {}, rest
    if not isinstance(config.stage, AutoencodeConfig):
        raise InputError("the file holds a discriminator, but its configuration is that of a prior: give another one")
    config.stage.disc_ndf, config.stage.disc_num_layers = discriminator.sizes(tensors)
    critic = discriminator.from_torch(tensors)
    left = {key: x for key, x in rest.items() if not key.startswith(prefix) or key.endswith(discriminator.RUNNING)}
    return {"discriminator": critic}, left


def contents(run: Run, state_dict: StateDict) -> dict[str, dict[str, np.ndarray]]:
    """An official checkpoint of a run: its model's state dict, its discriminator, and what its import had kept."""
    stage, path = run.config.stage, pathlib.Path(run.path) / REST
    tensors, metadata = load_safetensors(path) if path.is_file() else ({}, {})
    check_sums(path, tensors, metadata, tensors)
    if isinstance(stage, AutoencodeConfig) and run.has("discriminator"):
        critic = run.item("discriminator", discriminator.shapes(stage.disc_ndf, stage.disc_num_layers))
        prefix = APART if isinstance(stage.model, RQVAEConfig) else INSIDE
        tensors = {prefix + key: x for key, x in discriminator.to_torch(critic).items()} | tensors
    apart = {key.removeprefix(APART): x for key, x in tensors.items() if key.startswith(APART)}
    inside = {key: x for key, x in tensors.items() if not key.startswith(APART)}
    return {"state_dict": {**state_dict, **inside}} | ({"discriminator": apart} if apart else {})
