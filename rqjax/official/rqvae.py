"""The official RQ-VAE: its `arch` section as a config of ours, and its state dict as a model of ours, both ways."""

import re

import numpy as np

from rqjax.errors import InputError
from rqjax.official.layers import autoencoder_entries
from rqjax.official.section import Section
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.vae import RQVAE
from rqjax.torchfile.table import Entry, StateDict, shapes_of

NAMES = {
    **{name: f"ddconfig.{name}" for name in ("resolution", "ch", "num_res_blocks", "z_channels")},
    **{name: f"ddconfig.{name}" for name in ("ch_mult", "attn_resolutions")},
    **{"codebook_size": "hparams.n_embed", "commitment_weight": "hparams.latent_loss_weight"},
    **{name: f"hparams.{name}" for name in ("embed_dim", "decay", "code_shape")},
}
"""The options, by our fields, that errors of our check may be about."""


def rqvae_config(arch: object) -> RQVAEConfig:
    """Our config for the `arch` section of an official YAML of type rq-vae; defaults are those of the official loader.

    Raises InputError naming every unknown key, and for values that we do not support.
    """
    top = Section(arch, "arch")
    hparams, ddconfig = top.section("hparams"), top.section("ddconfig")
    top.expect(type="rq-vae")
    hparams.expect(bottleneck_type="rq")
    ddconfig.expect(double_z=False, in_channels=3, out_ch=3, dropout=0, resamp_with_conv=True, give_pre_end=False)
    top.ignore("ema", "code_hier")
    hparams.ignore("loss_type", "commitment_loss", "use_padding_idx", "masked_dropout", "code_hier")
    height, width, depth = hparams.wholes("code_shape", 3)
    books = 1 if hparams.flag("shared_codebook", False) else depth
    config = RQVAEConfig(
        **ddconfig.take(Section.whole, "resolution", "ch", "num_res_blocks", "z_channels"),
        **ddconfig.take(Section.wholes, "ch_mult", "attn_resolutions"),
        embed_dim=hparams.whole("embed_dim", 64),
        code_shape=(height, width),
        quantizer=QuantizerConfig(
            codebook_size=hparams.each("n_embed", lambda section, key: section.whole(key, 512), books),
            depth=depth,
            decay=hparams.each("decay", lambda section, key: section.number(key, 0.99), books),
            restart_threshold=1.0 if hparams.flag("restart_unused_codes", False) else 0.0,
            commitment_weight=hparams.number("latent_loss_weight", 0.25),
        ),
        remat=top.flag("checkpointing", False),
    )
    latent = hparams.wholes("latent_shape", 3)
    top.finish()
    top.check(config.check, **NAMES)
    ours = (config.latent_size, config.latent_size, config.embed_dim)
    if latent != ours:
        raise InputError(f"arch.hparams.latent_shape is {latent}: expected {ours}, which the rest of the file makes it")
    return config


def entries(model: RQVAE) -> list[Entry]:
    """Where each tensor lives; `model` may hold shapes. The release has a copy of a shared codebook for each depth."""
    shapes, settings = shapes_of(model), model.config.quantizer
    if not isinstance(model.config, RQVAEConfig):
        raise InputError("transformers over patches have no official form: use `convert --to_safetensors`")
    if settings.kind != "codebook":
        raise InputError(f"a quantizer of kind {settings.kind} has no official form: only codebook has")
    books = range(settings.depth) if len(settings.codebook_size) > 1 else (0,) * settings.depth
    codebooks = {f"quantizer.codebooks.{i}": f"quantizer/codebooks/{book}" for i, book in enumerate(books)}
    return autoencoder_entries(shapes, codebooks)


def held(state_dict: StateDict, model: RQVAE) -> StateDict:
    """The state dict itself. Raises InputError for copies of a shared codebook that are not equal."""
    for key, tensor in state_dict.items() if len(model.config.quantizer.codebook_size) == 1 else ():
        first = re.sub(r"^quantizer\.codebooks\.\d+", "quantizer.codebooks.0", key)
        if not np.array_equal(tensor, state_dict.get(first, tensor), equal_nan=True):
            raise InputError(f"{key} differs from {first}: the config says they are one: set shared_codebook false")
    return state_dict
