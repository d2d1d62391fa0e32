"""Official state dicts as models of ours, and back."""

from collections.abc import Mapping
from types import ModuleType

import jax
import numpy as np

from rqjax.dq.transformer import DQTransformer
from rqjax.dq.vae import DQVAE
from rqjax.errors import InputError
from rqjax.official import dqtransformer, dqvae, rqtransformer, rqvae
from rqjax.official.documents import ModelConfig, model_config
from rqjax.official.thresholds import Entropy
from rqjax.rq.transformer import RQTransformer
from rqjax.rq.vae import RQVAE
from rqjax.torchfile.table import StateDict, export_arrays, import_arrays

FIRST_STAGE = "first_stage_model."
"""The prefix of the tokenizer's keys in a DQ stage-2 checkpoint."""
Model = RQVAE | RQTransformer | DQVAE | DQTransformer
FORMS: dict[type, ModuleType] = {RQVAE: rqvae, RQTransformer: rqtransformer, DQVAE: dqvae, DQTransformer: dqtransformer}
"""Modules with the `entries` of a model, and the part of a state dict that is `held` in them."""


def from_torch(state_dict: StateDict, config: Mapping[str, object], *, entropy_bins: str = "0_1") -> Model:
    """The model, of float32 NumPy arrays, that an official state dict (NumPy arrays by key) holds.

    `config` is the `arch` section of an RQ config with `vocab_size` filled in, or the `model` section of a DQ config;
    of a DQ stage-2 state dict this is the prior (its tokenizer: `first_stage_config`, and keys without their prefix).
    `entropy_bins` are those of a DQ-VAE's entropy router: "0_1" as in the published weights, "-1_1" as in the official
    code since July 2023. Its table of thresholds is a published one, or has an absolute path. Raises InputError naming
    unknown options, and keys that are missing, unknown or of another shape.
    """
    return import_model(state_dict, model_config(config, Entropy(entropy_bins)))


def import_model(state_dict: StateDict, config: ModelConfig) -> Model:
    """As from_torch, for a configuration of ours."""
    like = jax.eval_shape(config.init, jax.random.key(0))
    form = FORMS[type(like)]
    return import_arrays(form.entries(like), form.held(state_dict, like), like)


def to_torch(model: object, tokenizer: object = None) -> dict[str, np.ndarray]:
    """The official state dict of a model, the inverse of from_torch: NumPy arrays, most of them views on ours.

    That of a DQ prior holds its `tokenizer` (a DQVAE) too, and one mask, a single array, under the keys of all layers;
    other models leave it out. Raises InputError for a model that the official code does not have.
    """
    if type(model) not in FORMS:
        raise InputError(f"a {type(model).__name__} has no official form: expected an RQ or a DQ model")
    tensors = export_arrays(FORMS[type(model)].entries(model), model)
    if isinstance(model, RQTransformer):
        return rqtransformer.with_offsets(tensors, model)
    if isinstance(model, DQTransformer):
        first = to_torch(tokenizer) if isinstance(tokenizer, DQVAE) else {}
        return {FIRST_STAGE + key: x for key, x in first.items()} | dqtransformer.with_masks(tensors)
    return tensors


def first_stage(state_dict: StateDict) -> dict[str, np.ndarray]:
    """The tokenizer's part of a DQ stage-2 state dict."""
    return {key.removeprefix(FIRST_STAGE): tensor for key, tensor in state_dict.items() if key.startswith(FIRST_STAGE)}


def keys(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Keys and shapes, in the order of the official file, of the model that a configuration makes.

    No weights are made: every array is one zero, seen in the full shape.
    """
    shapes = jax.eval_shape(config.init, jax.random.key(0))
    hollow = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)
    return {key: tensor.shape for key, tensor in to_torch(hollow).items()}
