"""The entropy thresholds of a data set, for DQ-VAEs whose router goes by thresholds.

`rqjax thresholds --images FOLDER --size 256 --patch 16 --bins=-1_1 --out thresholds.json`

A configuration reads them by --config.stage.model.routing.thresholds_path=thresholds.json.
"""

import functools

from absl import flags

from rqjax.flags import cache, overwrite

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
IMAGES = _string("images", None, "A folder of images; the embedded Fashion-MNIST if none.")
SPLIT = _string("split", "train", "Which part of it: train, test or all.")
SIZE = _integer("size", 256, "Pixels of a side: the model's resolution.", lower_bound=1)
PATCH = _integer("patch", 16, "Pixels of a side of a coarse region.", lower_bound=1)
BINS_FLAG = flags.DEFINE_enum("bins", "-1_1", ["0_1", "-1_1"], "The range of the histogram's bins.", flag_values=FLAGS)
COUNT = _integer("count", None, "Use so many images at most.", lower_bound=1)
OUT = _string("out", "thresholds.json", "The table: 99 percentiles, bins and patch.")
OVERWRITE = overwrite.define(FLAGS)
cache.define(FLAGS)
