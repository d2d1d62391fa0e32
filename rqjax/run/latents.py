"""Latents that a prior trains on in place of images: they must be those of its own tokenizer."""

import hashlib

import jax
import numpy as np

from rqjax.data.records import Records
from rqjax.data.sources import Source
from rqjax.errors import InputError
from rqjax.interface import Tokenizer
from rqjax.run.config import Config
from rqjax.run.frozen import tokenizer_run
from rqjax.stages.predict import PredictConfig
from rqjax.store.arrays import to_arrays
from rqjax.store.remote import Path


def checksum(tokenizer: Tokenizer) -> str:
    """The SHA-256 of a tokenizer's arrays, in hexadecimal: of their names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, array in sorted(to_arrays(tokenizer).items()):
        values = np.asarray(array)
        found.update(f"{name} {values.dtype} {values.shape}\n".encode())
        found.update(np.ascontiguousarray(values).view(np.uint8).data if values.ndim else values.tobytes())
    return found.hexdigest()


def check(config: Config, workdir: Path, source: Source) -> None:
    """Raises InputError for latents of another tokenizer than the prior's, or of another kind than it reads."""
    latents = source.latents if isinstance(source, Records) else None
    stage = config.stage
    if latents is None or not isinstance(stage, PredictConfig):
        return
    path = config.data.path
    if stage.model.reads_vectors and not latents.vectors:
        raise InputError(
            f"{path} holds codes, and this prior draws codes from vectors: encode again without --codes, or set"
            " stage.model.target=hard and stage.model.stochastic=false"
        )
    run = tokenizer_run(stage, workdir)
    assert stage.tokenizer is not None  # with_tokenizer has filled it in
    tokenizer = run.weights(jax.eval_shape(stage.tokenizer.init, jax.random.key(0)))
    if (own := checksum(tokenizer)) != latents.tokenizer:
        raise InputError(
            f"{path} holds latents of another tokenizer ({latents.tokenizer[:12]}) than the one in {run.path}"
            f" ({own[:12]}): encode the images again, with that one"
        )
