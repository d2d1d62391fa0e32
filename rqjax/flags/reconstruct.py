"""Images through a tokenizer and back: `rqjax reconstruct --tokenizer runs/a --images FOLDER --out recon.png`."""

import functools

from absl import flags

from rqjax.flags import cache, overwrite

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
TOKENIZER = _string("tokenizer", None, "Run directory of a tokenizer, or of a prior trained on one.")
IMAGES = _string("images", None, "A folder of images, flat or with one sub-folder per class.")
COUNT = flags.DEFINE_integer(
    "count", 8, "How many of them, in the order of their names.", lower_bound=1, flag_values=FLAGS
)
OUT = _string("out", "reconstructions.png", "The picture (.png, .jpg, .webp): originals above, then one row a depth.")
OVERWRITE = overwrite.define(FLAGS)
cache.define(FLAGS)
