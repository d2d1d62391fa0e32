"""Entries of what official models have in common: transformer blocks, and whole autoencoders in their order."""

import types
from collections.abc import Iterator, Mapping

from rqjax.torchfile.table import Entry, Shapes, layer_entries

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
    for layer in range(shapes.get(f"{path}/norm1/scale", (0,))[0]):
        for theirs, ours in BLOCK.items():
            inputs = 2 if ours == "proj" else 1  # it joins the heads: its inputs are heads and features
            yield from layer_entries(f"{key}.{layer}.{theirs}", f"{path}/{ours}", shapes, layer, inputs)


def autoencoder_entries(
    shapes: Shapes, codebooks: Mapping[str, str], renames: Mapping[str, str] = types.MappingProxyType({})
) -> list[Entry]:
    """The entries of an autoencoder, in the order of official files.

    Its network's layers have official names, but for `renames` (parts of ours to official ones). `codebooks` has our
    path of each official codebook, whose table has a row more than codes, never looked up: our `padding`.
    """
    found: list[Entry] = []
    for path in dict.fromkeys(name.rpartition("/")[0] for name in shapes if name.startswith(NETWORK)):
        key = path.removeprefix(NETWORK).replace("/", ".")
        for ours, theirs in renames.items():
            key = key.replace(ours, theirs)
        found += layer_entries(key, path, shapes)
    for key, path in codebooks.items():
        codes, dim = shapes[f"{path}/embed"]
        found += [
            Entry(f"{key}.weight", f"{path}/embed", (codes + 1, dim), rows=slice(codes)),
            Entry(f"{key}.weight", f"{path}/padding", (codes + 1, dim), rows=codes),
            Entry(f"{key}.cluster_size_ema", f"{path}/count", (codes,)),
            Entry(f"{key}.embed_ema", f"{path}/total", (codes, dim)),
        ]
    return sorted(found, key=_rank)


def _rank(entry: Entry) -> list[int]:
    return [int(word) if word.isdigit() else ORDER.index(word) for word in entry.key.split(".")]
