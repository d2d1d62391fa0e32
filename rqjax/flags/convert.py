"""Models to and from other formats: `rqjax convert --from_torch model.pt --torch_config config.yaml --out DIR`."""

import functools

from absl import flags

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
FROM_TORCH = _string("from_torch", None, "A .pt or .ckpt file of the official programs, to a model's folder.")
TORCH_CONFIG = _string("torch_config", None, "The official YAML file of --from_torch, as it was published.")
ENTROPY_BINS = flags.DEFINE_enum(
    "entropy_bins",
    None,
    ["0_1", "-1_1"],
    "With --from_torch of a DQ-VAE that routes by entropy, which its YAML does not say: 0_1 (the default) as in the "
    "published weights, -1_1 as in the official code since July 2023.",
    flag_values=FLAGS,
)
TO_TORCH = _string("to_torch", None, "A run directory, to a .pt file that the official programs load.")
TO_SAFETENSORS = _string("to_safetensors", None, "A run directory, to a folder of config.json and model.safetensors.")
FROM_SAFETENSORS = _string("from_safetensors", None, "Such a folder, to a run directory with a checkpoint.")
OUT = _string("out", None, "The folder or file to write; it must not exist yet.")
EMA = flags.DEFINE_bool(
    "ema", None, "Averaged weights: from a .pt if asked; from a run that kept them unless --noema.", flag_values=FLAGS
)
TOKENIZER = _string("tokenizer", None, "With --from_torch of a prior: its imported tokenizer, to be kept with it.")
LICENCE = _string("licence", None, "Of the imported weights; for RQ models CC-BY-NC-SA-4.0.")
