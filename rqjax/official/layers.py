"""Entries of the layers that official models have in common, and the order of their state dicts."""

from collections.abc import Iterator, Mapping

import numpy as np

from rqjax.torchfile.table import Entry, Shapes, StateDict, layer_entries

NETWORK = "network/"
BLOCK = {
    **{"ln1": "norm1", "ln2": "norm2"},
    **{f"attn.{name}": name for name in ("key", "query", "value", "proj")},
    **{"mlp.0": "up", "mlp.2": "down"},
}
"""Layers of a transformer block: official names and ours."""
ORDER = (
    *("encoder", "decoder", "quantizer", "quantize", "quant_conv", "post_quant_conv", "codebooks", "codebook"),
    *("conv_in", "down", "mid", "up"),
    *(f"{part}_{grain}" for grain in ("coarse", "median", "fine") for part in ("mid", "norm_out", "conv_out")),
    *("router", "norm_out", "conv_out", "position_bias_fourier", "position_bias_learned", "position_bias"),
    *("block", "attn", "downsample", "upsample", "block_1", "attn_1", "block_2"),
    *("norm1", "conv1", "norm2", "conv2", "nin_shortcut", "norm", "q", "k", "v", "proj_out"),
    *("gate", "feature_norm_fine", "feature_norm_median", "feature_norm_coarse", "row_embed", "col_embed"),
    *("lff", "ffm", "conv", "weight", "bias", "cluster_size_ema", "embed_ema"),
)
"""Names in state dicts of autoencoders, each after those that its siblings have before it in official files."""


def stack_entries(key: str, path: str, shapes: Shapes) -> Iterator[Entry]:
    """The entries of a stack of transformer blocks: official ones by layer, ours with a first axis of layers."""
    for layer in range(shapes[f"{path}/norm1/scale"][0]):
        for theirs, ours in BLOCK.items():
            yield from layer_entries(f"{key}.{layer}.{theirs}", f"{path}/{ours}", shapes, layer)


def network_entries(shapes: Shapes, renames: Mapping[str, str]) -> Iterator[Entry]:
    """The entries of a network whose layers have official names, but for `renames` (parts of ours to official ones)."""
    for path in dict.fromkeys(name.rpartition("/")[0] for name in shapes if name.startswith(NETWORK)):
        key = path.removeprefix(NETWORK).replace("/", ".")
        for ours, theirs in renames.items():
            key = key.replace(ours, theirs)
        yield from layer_entries(key, path, shapes)


def codebook_entries(key: str, path: str, shapes: Shapes) -> Iterator[Entry]:
    """The entries of a codebook. The official table has a row more than codes, never looked up: our `padding`."""
    codes, dim = shapes[f"{path}/embed"]
    yield Entry(f"{key}.weight", f"{path}/embed", (codes + 1, dim), rows=slice(codes))
    yield Entry(f"{key}.weight", f"{path}/padding", (codes + 1, dim), rows=codes)
    yield Entry(f"{key}.cluster_size_ema", f"{path}/count", (codes,))
    yield Entry(f"{key}.embed_ema", f"{path}/total", (codes, dim))


def in_order(state_dict: StateDict) -> dict[str, np.ndarray]:
    """The state dict of an autoencoder in the order of official files."""
    rank = lambda key: [int(word) if word.isdigit() else ORDER.index(word) for word in key.split(".")]  # noqa: E731
    return {key: state_dict[key] for key in sorted(state_dict, key=rank)}
