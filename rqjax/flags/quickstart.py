"""Both stages on the embedded images, from nothing to a report: `rqjax quickstart --out runs/quickstart`."""

from absl import flags

from rqjax.flags import cache, overwrite

FLAGS = flags.FlagValues()
OUT = flags.DEFINE_string(
    "out", None, "Where the runs, the pictures, summary.json and report.html go.", flag_values=FLAGS
)
MODEL = flags.DEFINE_enum("model", "rq", ["rq", "dq"], "Residual or dynamic quantization.", flag_values=FLAGS)
COUNT = flags.DEFINE_integer("count", 40, "Samples per class.", lower_bound=1, upper_bound=10_000, flag_values=FLAGS)
OVERWRITE = overwrite.define(FLAGS)
cache.define(FLAGS)
