"""The cost of a run on a TPU slice that is not there: `rqjax compile --config C --topology v5p:2x4x4`.

Compiles the training step, or with --sample the sampler, from shapes alone, by the compiler of that TPU (libtpu, of the
extra `compile`). It tells what the compiler knows: that a program fits, and its memory and collectives. The time
is a bound: no step is faster, and how close one comes to it is not known here.
"""

import functools

from absl import flags

from rqjax.flags import configuration, overwrite, precisions

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
configuration.define(FLAGS)
TOPOLOGY = _string("topology", None, "Generation and shape of a slice, as in v5e:4x4 or v5p:2x4x4.")
SLICES = flags.DEFINE_integer("slices", 1, "How many such slices.", lower_bound=1, flag_values=FLAGS)
MESH = _string("mesh", "", "Instead of the configuration's mesh.")
SAMPLE = flags.DEFINE_integer(
    "sample",
    0,
    "Compile the sampler for so many images instead of the training step.",
    lower_bound=0,
    flag_values=FLAGS,
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    "bfloat16",
    precisions.NAMES,
    "Of --sample: of the prior's parameters and of the computation, as `rqjax sample --dtype`.",
    flag_values=FLAGS,
)
QUICK = flags.DEFINE_bool(
    "quick",
    False,
    "Let the compiler search less, in a fraction of the time: a look at memory and collectives, not the program that"
    " training will run.",
    flag_values=FLAGS,
)
JSON = _string("json", "", "A file for the figures.")
TEXT = _string("text", "", "A file for the compiled program.")
OVERWRITE = overwrite.define(FLAGS)
