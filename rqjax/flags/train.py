"""Trains one stage: `rqjax train --config quickstart:rqvae --workdir runs/a --config.steps=400`."""

from absl import flags

from rqjax.flags import cache, configuration, processes

FLAGS = flags.FlagValues()
configuration.define(FLAGS)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, metrics and pictures go; an old one is resumed.", flag_values=FLAGS
)
PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Print every field, its value and its meaning, and do nothing else.", flag_values=FLAGS
)
PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "FIRST:LAST, steps of which a trace is left in the folder `profile` of --workdir.",
    flag_values=FLAGS,
)
processes.define(FLAGS)
cache.define(FLAGS)
