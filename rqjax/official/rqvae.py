"""The official RQ-VAE: its `arch` section as a config of ours, and its state dict as a model of ours, both ways."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rqjax.errors import InputError
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.vae import RQVAE, RQVAEConfig
from rqjax.store.arrays import from_arrays, to_arrays
from rqjax.torchfile.table import CONV, Entry, export_arrays, import_arrays

ARCH = {"type", "hparams", "ddconfig", "checkpointing", "ema", "code_hier"}
HPARAMS = {
    *("bottleneck_type", "embed_dim", "n_embed", "latent_shape", "code_shape", "shared_codebook", "decay"),
    *("restart_unused_codes", "loss_type", "latent_loss_weight"),
    *("commitment_loss", "use_padding_idx", "masked_dropout", "code_hier"),  # read by nothing in the reference
}
DDCONFIG = {
    *("double_z", "z_channels", "resolution", "in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks"),
    *("attn_resolutions", "dropout", "resamp_with_conv", "give_pre_end"),
}
FIXED = {
    "arch.type": "rq-vae",
    "arch.hparams.bottleneck_type": "rq",
    "arch.ddconfig.double_z": False,
    "arch.ddconfig.in_channels": 3,
    "arch.ddconfig.out_ch": 3,
    "arch.ddconfig.dropout": 0,
    "arch.ddconfig.resamp_with_conv": True,
    "arch.ddconfig.give_pre_end": False,
}
"""Options of which every published model has this value; no other is supported."""
ORDER = (
    *("encoder", "decoder", "quantizer", "quant_conv", "post_quant_conv", "codebooks"),
    *("conv_in", "down", "mid", "up", "block", "attn", "downsample", "upsample"),
    *("block_1", "attn_1", "block_2", "norm_out", "conv_out"),
    *("norm1", "conv1", "norm2", "conv2", "nin_shortcut", "norm", "q", "k", "v", "proj_out", "conv"),
    *("weight", "bias", "cluster_size_ema", "embed_ema"),
)
"""Names of modules and tensors, each after those that the reference makes before it."""


def rqvae_config(arch: Mapping[str, Any]) -> RQVAEConfig:
    """Our config for the `arch` section of an official YAML of type rq-vae.

    Raises InputError naming every unknown key, and for values that we do not support. Defaults are the reference's.
    """
    hparams, ddconfig = _section(arch, "hparams"), _section(arch, "ddconfig")
    _check_options(arch, hparams, ddconfig)
    height, width, depth = _triple(hparams, "code_shape")
    many = 1 if hparams.get("shared_codebook", False) else depth
    sizes: dict[str, Any] = {
        key: _required(ddconfig, "ddconfig", key) for key in ("resolution", "ch", "num_res_blocks", "z_channels")
    }
    config = RQVAEConfig(
        **sizes,
        ch_mult=tuple(_required(ddconfig, "ddconfig", "ch_mult")),
        attn_resolutions=tuple(_required(ddconfig, "ddconfig", "attn_resolutions")),
        embed_dim=hparams.get("embed_dim", 64),
        code_shape=(height, width),
        quantizer=QuantizerConfig(
            codebook_size=_for_each(hparams.get("n_embed", 512), many, "n_embed"),
            depth=depth,
            decay=tuple(float(decay) for decay in _for_each(hparams.get("decay", 0.99), many, "decay")),
            restart_threshold=1.0 if hparams.get("restart_unused_codes", True) else 0.0,
            commitment_weight=float(hparams.get("latent_loss_weight", 0.25)),
        ),
        remat=bool(arch.get("checkpointing", False)),
    )
    config.check()
    latent, ours = _triple(hparams, "latent_shape"), config.settings().latent_shape
    if latent != ours:
        raise InputError(
            f"arch.hparams.latent_shape is {latent}, but ddconfig and embed_dim make {ours}: correct either"
        )
    return config


def _check_options(arch: Mapping[str, Any], hparams: Mapping[str, Any], ddconfig: Mapping[str, Any]) -> None:
    sections = {"arch": (arch, ARCH), "arch.hparams": (hparams, HPARAMS), "arch.ddconfig": (ddconfig, DDCONFIG)}
    unknown = [f"{name}.{key}" for name, (section, known) in sections.items() for key in section if key not in known]
    if unknown:
        raise InputError(f"unknown keys in this RQ-VAE config: {', '.join(unknown)}: remove them if they mean nothing")
    for name, expected in FIXED.items():
        section, key = name.rsplit(".", 1)
        found = sections[section][0].get(key, expected)
        if found != expected:
            raise InputError(f"{name} is {found!r}: only {expected!r} is supported")


def _section(arch: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = arch.get(name)
    if not isinstance(section, Mapping):
        raise InputError(f"arch.{name} is {section!r}: expected a section of options")
    return section


def _required(section: Mapping[str, Any], name: str, key: str) -> Any:
    if key not in section:
        raise InputError(f"arch.{name}.{key} is missing: copy it from the official config")
    return section[key]


def _triple(hparams: Mapping[str, Any], key: str) -> tuple[int, int, int]:
    value = _required(hparams, "hparams", key)
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise InputError(f"arch.hparams.{key} is {value!r}: expected three whole numbers")
    return tuple(value)


def _for_each(value: Any, many: int, name: str) -> tuple:
    """One value for each codebook; a single number holds for all."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * many
    if len(values) != many:
        raise InputError(f"arch.hparams.{name} has {len(values)} values for {many} codebooks: give one for each")
    return values


def entries(model: RQVAE) -> list[Entry]:
    """The table of everything but the codebooks, in the order of our arrays; `model` may hold shapes."""
    table = []
    for path, ours in to_arrays(model.network).items():
        *parents, leaf = path.split("/")
        key = ".".join([*parents, "bias" if leaf == "bias" else "weight"])
        kernel = leaf == "kernel"
        shape = tuple(ours.shape[axis] for axis in np.argsort(CONV)) if kernel else tuple(ours.shape)
        table.append(Entry(key, path, shape, CONV if kernel else None))
    return table


def rqvae_from_torch(state_dict: Mapping[str, Any], config: RQVAEConfig) -> RQVAE:
    """The model, of numpy arrays, that an official state dict holds.

    Raises InputError naming keys that are missing, unknown or of another shape, and for copies of a shared codebook
    that are not equal.
    """
    like = jax.eval_shape(config.init, jax.random.key(0))
    shapes = {entry.key: entry for entry in _book_entries(like)}
    table = [*entries(like), *shapes.values()]
    flat = {**to_arrays(like.network), **{entry.path: entry for entry in shapes.values()}}
    arrays = import_arrays(table, state_dict, flat)
    names = {"weight": "embed", "cluster_size_ema": "count", "embed_ema": "total"}
    ours = {f"network/{path}": arrays[path] for path in to_arrays(like.network)}
    padding = []
    for book in range(len(config.quantizer.codebook_size)):
        for leaf, name in names.items():
            tensor = arrays[f"quantizer.codebooks.{book}.{leaf}"]
            if leaf == "weight":
                padding.append(tensor[-1])
                tensor = tensor[:-1]
            ours[f"codebooks/{book}/{name}"] = tensor
    if len(config.quantizer.codebook_size) == 1:
        _check_copies(arrays, config.quantizer.depth)
    return from_arrays(like, {**ours, "padding": np.stack(padding)})


def _book_entries(model: RQVAE) -> list[Entry]:
    """The official tensors of the codebooks, copies included."""
    table = []
    for index in range(model.settings.depth):
        book = model.codebooks[0 if len(model.codebooks) == 1 else index]
        shapes = {"weight": (book.size + 1, book.dim), "cluster_size_ema": (book.size,), "embed_ema": book.total.shape}
        for leaf, shape in shapes.items():
            key = f"quantizer.codebooks.{index}.{leaf}"
            table.append(Entry(key, key, tuple(shape)))
    return table


def _check_copies(arrays: Mapping[str, np.ndarray], depth: int) -> None:
    for index in range(1, depth):
        for leaf in ("weight", "cluster_size_ema", "embed_ema"):
            first, copy = (f"quantizer.codebooks.{i}.{leaf}" for i in (0, index))
            if not np.array_equal(arrays[first], arrays[copy], equal_nan=True):
                raise InputError(
                    f"{copy} differs from {first}: the config says they are one: set shared_codebook false"
                )


def rqvae_to_torch(model: RQVAE) -> dict[str, np.ndarray]:
    """The official state dict, in the official order, with a copy of a shared codebook for every depth."""
    network = export_arrays(entries(model), to_arrays(model.network))
    books = {}
    for index in range(model.settings.depth):
        which = 0 if len(model.codebooks) == 1 else index
        book, name = model.codebooks[which], f"quantizer.codebooks.{index}"
        padding = np.asarray(model.padding)[which : which + 1]
        books[f"{name}.weight"] = np.concatenate([np.asarray(book.embed), padding])
        books[f"{name}.cluster_size_ema"] = np.asarray(book.count)
        books[f"{name}.embed_ema"] = np.asarray(book.total)
    tensors = network | books
    return {key: tensors[key] for key in official_order(model)}


def official_shapes(model: RQVAE) -> dict[str, tuple[int, ...]]:
    """The official state dict's keys and shapes for a model or its shapes; what `convert` expects to find."""
    shapes = {entry.key: entry.shape for entry in [*entries(model), *_book_entries(model)]}
    return {key: shapes[key] for key in sorted(shapes, key=_rank)}


def official_order(model: RQVAE) -> list[str]:
    """The keys of the official state dict in the order in which its modules are made."""
    return list(official_shapes(model))


def _rank(key: str) -> list[int]:
    return [int(word) if word.isdigit() else ORDER.index(word) for word in key.split(".")]
