"""Trained models for programs and notebooks: `rqjax.load(path)` opens one, and it takes and gives what people hold."""

import os
from collections.abc import Sequence

import jax

from rqjax.api.animation import Animation
from rqjax.api.batches import MOST, Batches
from rqjax.api.classifier import LoadedClassifier
from rqjax.api.filmstrip import Filmstrip
from rqjax.api.loaded import LoadedModel, LoadedTokenizer
from rqjax.api.measured import measured
from rqjax.api.pictures import Pictures
from rqjax.api.prior import LoadedPrior
from rqjax.errors import InputError
from rqjax.run import hosts
from rqjax.run.directory import Run
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig

__all__ = [
    "Animation",
    "Filmstrip",
    "LoadedClassifier",
    "LoadedModel",
    "LoadedPrior",
    "LoadedTokenizer",
    "Pictures",
    "load",
    "measured",
]


def load(
    path: str | os.PathLike[str],
    *,
    ema: bool = True,
    tokenizer: str | os.PathLike[str] | None = None,
    batch: int = MOST,
    devices: Sequence[jax.Device] | None = None,
    dtype: str | None = None,
) -> LoadedTokenizer | LoadedPrior | LoadedClassifier:
    """See rqjax.load."""
    hosts.quieten_libtpu()
    run, batches = Run.open(path), Batches.over(devices, batch)
    stage = run.config.stage
    if isinstance(stage, PredictConfig):
        other = None if tokenizer is None else Run.open(tokenizer).tokenizer()
        loaded = LoadedPrior(run, batches, ema=ema, tokenizer=other, dtype=dtype)
    else:
        if dtype is not None:
            kind = type(stage.model).__name__
            raise InputError(f"dtype is {dtype!r}, and {run.path} holds a {kind}: it is for priors, leave it out")
        kind = LoadedTokenizer if isinstance(stage, AutoencodeConfig) else LoadedClassifier
        loaded = kind(run, batches, ema=ema)
    _ = loaded.model  # read now, so that a damaged file is told of here
    return loaded
