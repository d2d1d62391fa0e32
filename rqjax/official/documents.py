"""The official configuration files: which model of ours they describe, how it was trained, and their state dicts."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import yaml

from rqjax.dq.transformer import DQTransformer, DQTransformerConfig
from rqjax.dq.vae import DQVAE, DQVAEConfig
from rqjax.errors import InputError
from rqjax.official import dqtransformer, dqvae, rqtransformer, rqvae
from rqjax.official.official_options import RQ_FIXED, RQ_KNOWN, RQ_TRAINING, RQ_WHOLE, dq_rank, dq_training
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig
from rqjax.rq.vae import RQVAE, RQVAEConfig

RQ_LICENCE = "CC-BY-NC-SA-4.0"
"""Under which kakaobrain publishes the weights of its RQ models: not for commercial use."""
FIRST_STAGE = "first_stage_model."
"""What stands before the keys of the tokenizer in a DQ stage-2 checkpoint."""
IMPORTS = {
    RQVAEConfig: rqvae.rqvae_from_torch,
    RQTransformerConfig: rqtransformer.rqtransformer_from_torch,
    DQVAEConfig: dqvae.dqvae_from_torch,
    DQTransformerConfig: dqtransformer.dqtransformer_from_torch,
}


def _dqvae_to_torch(model: DQVAE) -> dict[str, Any]:
    tensors = dqvae.dqvae_to_torch(model)
    return {key: tensors[key] for key in sorted(tensors, key=dq_rank)}


EXPORTS = {
    RQVAE: rqvae.rqvae_to_torch,
    RQTransformer: rqtransformer.rqtransformer_to_torch,
    DQVAE: _dqvae_to_torch,
    DQTransformer: dqtransformer.dqtransformer_to_torch,
}


@dataclasses.dataclass(frozen=True)
class Official:
    """What an official configuration file describes.

    `training` maps places in our run configuration, as in "stage.optimizer.learning_rate", to the file's values;
    "images" and "epochs" are those of its data set.
    """

    model: Any
    tokenizer: Any  # the first stage's, which a DQ prior's file describes too; None in others
    training: dict[str, Any]
    licence: str


class _Loader(yaml.SafeLoader):
    """YAML as the official programs read it: 4e-5 is a number, though YAML 1.1 asks for a point and a sign."""


_Loader.yaml_implicit_resolvers = {key: list(pairs) for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The sections of a YAML file. Raises InputError if it is none, or cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.load(file, _Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read ({error}): give the official config.yaml") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{os.fspath(path)} is not YAML ({reason}): give the official config.yaml") from None
    if not isinstance(found, dict):
        raise InputError(f"{os.fspath(path)} holds no sections: give the official config.yaml of the model")
    return found


def read(document: Mapping[str, Any]) -> Official:
    """What the sections of an official file describe, the official defaults filled in.

    Raises InputError naming every unknown key, and for values that we do not support.
    """
    try:
        return _read(document)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"a value of this config has another form than official ones have ({reason})") from None


def _read(document: Mapping[str, Any]) -> Official:
    if "arch" in document:
        return _read_rq(document)
    if "model" in document:
        if unknown := sorted(map(str, set(document) - {"model", "data", "lightning"})):
            raise InputError(f"unknown sections in this DQ config: {', '.join(unknown)}: expected model, data")
        model = document["model"]
        config = model_config(model)
        prior = isinstance(config, DQTransformerConfig)
        tokenizer = model_config(model["params"]["first_stage_config"]) if prior else None
        return Official(config, tokenizer, dq_training(model, prior), "")
    raise InputError("this config has neither an `arch` section (RQ) nor a `model` section (DQ): give an official one")


def model_config(section: Any) -> Any:
    """Our configuration of the model in an `arch` section (RQ, `vocab_size` filled in) or a `model` section (DQ).

    What the release fills in where a section says nothing is filled in here. Raises InputError for unknown keys.
    """
    if not isinstance(section, Mapping):
        raise InputError(f"the section of the model is {section!r}: expected options")
    if "target" in section:
        prior = str(section["target"]).endswith("Dualformer")
        return dqtransformer.dqtransformer_config(section) if prior else dqvae.dqvae_config(section)
    kind = section.get("type")
    if kind == "rq-vae":
        defaults = {"restart_unused_codes": False, "loss_type": "l1"}
        hparams = section.get("hparams")
        complete = {"hparams": defaults | dict(hparams)} if isinstance(hparams, Mapping) else {}
        return rqvae.rqvae_config({**section, **complete})
    if kind == "rq-transformer":
        return rqtransformer.rqtransformer_config(section)
    raise InputError(f"arch.type is {kind!r}: expected rq-vae or rq-transformer")


def _read_rq(document: Mapping[str, Any]) -> Official:
    found = _flat({key: section for key, section in document.items() if key not in RQ_WHOLE})
    if unknown := sorted(set(found) - RQ_KNOWN):
        raise InputError(f"unknown keys in this RQ config: {', '.join(unknown)}: remove them if they mean nothing")
    for key, value in RQ_FIXED.items():
        if found.get(key, value) != value:
            raise InputError(f"{key} is {found[key]!r}: only {value!r} is supported")
    arch, sizes = dict(document["arch"] or {}), found.get("dataset.vocab_size")
    if arch.get("type") == "rq-transformer" and sizes is not None:
        arch.setdefault("vocab_size", sizes)
        if arch["vocab_size"] != sizes:
            raise InputError(f"arch.vocab_size is {arch['vocab_size']}, dataset.vocab_size is {sizes}: correct one")
    config = model_config(arch)
    if isinstance(config, RQTransformerConfig) and "loss" in document:
        config.target = "soft" if found.get("loss.type") == "soft_target_cross_entropy" else "hard"
        config.temperature = float(found.get("loss.temp", 1.0))
        config.stochastic = bool(found.get("loss.stochastic_codes", False))
        config.image_loss_weight = float(found.get("loss.img_weight", config.image_loss_weight))
        config.text_loss_weight = float(found.get("loss.txt_weight", config.text_loss_weight))
        config.check()
    training = {
        ours: convert(found[key]) for key, (places, convert) in RQ_TRAINING.items() if key in found for ours in places
    }
    for name, beta in zip(("b1", "b2"), found.get("optimizer.betas", ()), strict=False):
        training |= {f"stage.{kind}.{name}": float(beta) for kind in ("optimizer", "discriminator_optimizer")}
    return Official(config, None, training, RQ_LICENCE)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under dotted names; those without a value are left to their defaults."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {} if value is None else {name: value}
    return found


def weights(contents: Any, ema: bool) -> Mapping[str, Any]:
    """The state dict in what a .pt or .ckpt file holds: that of a trainer's checkpoint, or the file is one itself.

    Raises InputError if there is none, or if it holds anything but tensors by name.
    """
    if not isinstance(contents, Mapping):
        raise InputError(f"the file holds a {type(contents).__name__}: expected a checkpoint with a state_dict")
    name = "state_dict_ema" if ema else "state_dict"
    found = contents.get(name)
    if found is None and not ema and contents and all(hasattr(value, "shape") for value in contents.values()):
        found = contents
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"the file holds no {name}, only {', '.join(sorted(map(str, contents))[:8])}")
    if wrong := [str(key)[:60] for key, value in found.items() if not hasattr(value, "shape")]:
        raise InputError(f"the state_dict holds other things than tensors: {', '.join(wrong[:5])}")
    return found


def import_model(state_dict: Mapping[str, Any], config: Any) -> Any:
    """The model, of float32 NumPy arrays, that an official state dict holds for a configuration of ours."""
    model = IMPORTS[type(config)](state_dict, config)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), model)


def export_model(model: Any, tokenizer: Any = None) -> dict[str, Any]:
    """The official state dict of a model; that of a DQ prior holds its tokenizer too."""
    first: dict[str, Any] = {}
    if isinstance(model, DQTransformer) and tokenizer is not None:
        first = {FIRST_STAGE + key: tensor for key, tensor in _dqvae_to_torch(tokenizer).items()}
    return first | EXPORTS[type(model)](model)


def first_stage(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer's part of a DQ stage-2 state dict."""
    return {key.removeprefix(FIRST_STAGE): tensor for key, tensor in state_dict.items() if key.startswith(FIRST_STAGE)}


def keys(config: Any) -> dict[str, tuple[int, ...]]:
    """Keys and shapes, in the order of the official file, of the model that a configuration makes; nothing is made."""
    if isinstance(config, RQTransformerConfig):
        return rqtransformer.rqtransformer_keys(config)
    if isinstance(config, DQTransformerConfig):
        return dqtransformer.dqtransformer_keys(config)
    abstract = jax.eval_shape(config.init, jax.random.key(0))
    if isinstance(config, RQVAEConfig):
        return rqvae.official_shapes(abstract)
    found = {entry.key: entry.shape for entry in dqvae.entries(abstract)}
    found[dqvae.WEIGHT] = (config.codebook_size + 1, config.embed_dim)
    return {key: found[key] for key in sorted(found, key=dq_rank)}
