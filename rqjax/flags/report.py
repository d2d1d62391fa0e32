"""One self-contained page about a set of runs: `rqjax report runs/a runs/b --out report.html`."""

from absl import flags

from rqjax.flags import overwrite

FLAGS = flags.FlagValues()
RUNS = flags.DEFINE_list(
    "runs", [], "Run directories with commas between them, beside those behind the verb.", flag_values=FLAGS
)
OUT = flags.DEFINE_string("out", "report.html", "The page.", flag_values=FLAGS)
OVERWRITE = overwrite.define(FLAGS)
