"""Official state dicts as models of ours, and back."""

from collections.abc import Mapping

import jax
import numpy as np

from rqjax.dq.transformer import DQTransformer, DQTransformerConfig
from rqjax.dq.vae import DQVAE, DQVAEConfig
from rqjax.errors import InputError
from rqjax.official.documents import ModelConfig, model_config
from rqjax.official.dqtransformer import dqtransformer_from_torch, dqtransformer_to_torch
from rqjax.official.dqvae import dqvae_from_torch, dqvae_to_torch
from rqjax.official.rqtransformer import rqtransformer_from_torch, rqtransformer_to_torch
from rqjax.official.rqvae import rqvae_from_torch, rqvae_to_torch
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig
from rqjax.rq.vae import RQVAE, RQVAEConfig
from rqjax.torchfile.table import StateDict

FIRST_STAGE = "first_stage_model."
"""The prefix of the tokenizer's keys in a DQ stage-2 checkpoint."""
Model = RQVAE | RQTransformer | DQVAE | DQTransformer


def from_torch(state_dict: StateDict, config: Mapping[str, object]) -> Model:
    """The model, of float32 NumPy arrays, that an official state dict (NumPy arrays by key) holds.

    `config` is the `arch` section of an RQ config with `vocab_size` filled in, or the `model` section of a DQ config;
    of a DQ stage-2 state dict this is the prior (its tokenizer: `first_stage_config`, and keys without their prefix).
    Raises InputError naming unknown options, and keys that are missing, unknown or of another shape.
    """
    return import_model(state_dict, model_config(config))


def import_model(state_dict: StateDict, config: ModelConfig) -> Model:
    """As from_torch, for a configuration of ours."""
    match config:
        case RQVAEConfig():
            return rqvae_from_torch(state_dict, config)
        case RQTransformerConfig():
            return rqtransformer_from_torch(state_dict, config)
        case DQVAEConfig():
            return dqvae_from_torch(state_dict, config)
        case DQTransformerConfig():
            return dqtransformer_from_torch(state_dict, config)


def to_torch(model: object, tokenizer: object = None) -> dict[str, np.ndarray]:
    """The official state dict of a model, the inverse of from_torch: NumPy arrays, most of them views on ours.

    That of a DQ prior holds its `tokenizer` (a DQVAE) too, and one mask, a single array, under the keys of all layers;
    other models leave it out. Raises InputError for a model that the official code does not have.
    """
    match model:
        case RQVAE():
            return rqvae_to_torch(model)
        case RQTransformer():
            return rqtransformer_to_torch(model)
        case DQVAE():
            return dqvae_to_torch(model)
        case DQTransformer():
            first = dqvae_to_torch(tokenizer) if isinstance(tokenizer, DQVAE) else {}
            return {FIRST_STAGE + key: x for key, x in first.items()} | dqtransformer_to_torch(model)
        case _:
            raise InputError(f"a {type(model).__name__} has no official form: expected an RQ or a DQ model")


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
