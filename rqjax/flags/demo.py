"""A local page for a prior: `rqjax demo --prior runs/quickstart/rqtransformer`.

New images by a form, depth by depth, and one's own images with their codes, grain maps and partial decodes. It is
served to this machine alone unless --host says otherwise, and asks no other machine for anything.
"""

import functools

from absl import flags

from rqjax.flags import cache, precisions

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
PRIOR = _string("prior", None, "Run directory of a prior; it holds the tokenizer it was trained on.")
TOKENIZER = _string("tokenizer", None, "Run directory of another tokenizer with the same code grid.")
HOST = _string("host", "127.0.0.1", "The address to listen at; 0.0.0.0 lets every machine that reaches this one in.")
PORT = flags.DEFINE_integer(
    "port",
    7860,
    "The port to listen at; 0 takes one that is free.",
    lower_bound=0,
    upper_bound=65535,
    flag_values=FLAGS,
)
PAUSE = flags.DEFINE_float(
    "pause", 0.4, "Seconds from one level of a picture to the next.", lower_bound=0, upper_bound=60, flag_values=FLAGS
)
EMA = flags.DEFINE_bool("ema", True, "Use the averaged weights where the run kept them.", flag_values=FLAGS)
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    precisions.NAMES,
    "Of the prior's parameters and its computation: bfloat16 takes half of the memory, int8 a quarter for its layers;"
    " as it was trained if not given.",
    flag_values=FLAGS,
)
cache.define(FLAGS)
