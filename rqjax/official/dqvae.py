"""Where each tensor of an official DQ-VAE state dict lives in ours, both ways."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rqjax.dq.vae import DQVAE, DQVAEConfig
from rqjax.official.dqvae_config import dqvae_config as dqvae_config  # the third of its public functions
from rqjax.store.arrays import from_arrays, to_arrays
from rqjax.torchfile.table import Entry, conv, export_arrays, import_arrays, linear

WEIGHT = "quantize.codebook.weight"
"""The official book holds one row more than it has codes, for padding."""


def entries(model: DQVAE) -> list[Entry]:
    """The table of everything but the code vectors, in the order of our arrays; `model` may hold shapes."""
    book, renames = model.codebooks[0], _renames(model)
    table = [
        _entry(path, tuple(ours.shape), renames)
        for path, ours in to_arrays(model).items()
        if path.startswith("network/")
    ]
    return [
        *table,
        Entry("quantize.codebook.cluster_size_ema", "codebooks/0/count", tuple(book.count.shape)),
        Entry("quantize.codebook.embed_ema", "codebooks/0/total", tuple(book.total.shape)),
    ]


def _renames(model: DQVAE) -> dict[str, str]:
    """Our module names that differ from the official ones: counted through an activation, or alone of their kind."""
    encoder, decoder = model.network.encoder, model.network.decoder
    renames = {"position_bias_fourier.conv": "position_bias_fourier.lff.ffm.conv"}
    if decoder.fourier != decoder.learned:
        renames |= {"position_bias_fourier": "position_bias", "position_bias_learned": "position_bias"}
    if not model.routing.by_entropy:
        renames |= {"gate.1": "gate.2"} if len(encoder.router.gate) == 2 else {"gate.0": "gate"}
    return renames


def _entry(path: str, shape: tuple[int, ...], renames: Mapping[str, str]) -> Entry:
    *parents, leaf = path.removeprefix("network/").split("/")
    key = ".".join([*parents, "bias" if leaf == "bias" else "weight"])
    for ours, official in renames.items():
        key = key.replace(ours, official)
    if leaf == "kernel":
        return conv(key, path, shape) if len(shape) == 4 else linear(key, path, shape, shape[0])
    return Entry(key, path, shape)


def dqvae_from_torch(state_dict: Mapping[str, Any], config: DQVAEConfig) -> DQVAE:
    """The model, of numpy arrays, that an official state dict holds.

    Keys of its losses (`loss.*`) are left to others. Where the config's position is "none", so are position tables: the
    reference saves some that it never applies. Raises InputError naming keys that are missing, unknown or of another
    shape.
    """
    unused = ("loss.", "decoder.position_bias.") if config.position == "none" else ("loss.",)
    kept = {key: tensor for key, tensor in state_dict.items() if not key.startswith(unused)}
    like = jax.eval_shape(config.init, jax.random.key(0))
    book = Entry(WEIGHT, WEIGHT, (config.codebook_size + 1, config.embed_dim))
    arrays = import_arrays([*entries(like), book], kept, {**to_arrays(like), WEIGHT: book})
    weight = arrays.pop(WEIGHT)
    return from_arrays(like, {**arrays, "codebooks/0/embed": weight[:-1], "padding": weight[-1]})


def dqvae_to_torch(model: DQVAE) -> dict[str, np.ndarray]:
    """The official state dict of a model, without `loss.*`: the inverse of dqvae_from_torch."""
    weight = np.concatenate([np.asarray(model.codebooks[0].embed), np.asarray(model.padding)[None]])
    return {**export_arrays(entries(model), to_arrays(model)), WEIGHT: weight}
