"""A run directory as something to use: its configuration and its trained model."""

import os
from typing import Any

import jax

from rqjax.errors import InputError
from rqjax.run.config import Config, from_dict
from rqjax.stages.predict import PredictConfig
from rqjax.store import checkpoint, model_folder
from rqjax.store.remote import to_path

TOKENIZER = "tokenizer"
"""Where a prior's run directory keeps the frozen tokenizer it was trained on, as a run directory of its own."""


def load_config(path: str | os.PathLike[str]) -> Config:
    """The configuration that made the newest checkpoint of a run directory."""
    config = from_dict(checkpoint.read_config(path))
    if not isinstance(config, Config):
        raise InputError(f"{path} holds a {type(config).__name__}: expected a run directory that `rqjax train` wrote")
    return config


def load_model(path: str | os.PathLike[str], *, ema: bool = True) -> tuple[Config, Any]:
    """The configuration and the model of a run directory; its averaged weights where `ema` and the run kept them."""
    config = load_config(path)
    abstract = jax.eval_shape(config.stage.model.init, jax.random.key(0))
    return config, checkpoint.restore_model(path, abstract, ema=ema)


def load_tokenizer(path: str | os.PathLike[str]) -> tuple[Config, Any]:
    """The tokenizer of a run directory, be it the tokenizer's own or that of a prior, which keeps a copy."""
    if not isinstance(load_config(path).stage, PredictConfig):
        return load_model(path)
    kept = to_path(path) / TOKENIZER
    if not checkpoint.exists(kept):
        raise InputError(f"{path} holds a prior without its tokenizer: pass --tokenizer DIR, the one it was trained on")
    return load_model(kept)


def check_tokenizer(prior: Config, tokenizer: Config) -> None:
    """Raises InputError if the prior of one run cannot model the codes of the other's tokenizer."""
    theirs, ours = tokenizer.stage.model, prior.stage.model
    if not hasattr(ours, "check_tokenizer") or type(theirs).__name__[:2] != type(ours).__name__[:2]:
        raise InputError(f"a {type(ours).__name__} with a {type(theirs).__name__}: expected a prior and its tokenizer")
    ours.check_tokenizer(theirs)


def licences(*paths: str | os.PathLike[str]) -> list[str]:
    """The licences recorded beside models, and beside the tokenizers that priors keep, each once."""
    folders = [folder for path in paths for folder in (to_path(path), to_path(path) / TOKENIZER)]
    return list(dict.fromkeys(filter(None, map(model_folder.read_licence, folders))))
