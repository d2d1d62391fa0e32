"""A tokenizer once over a set of images: `rqjax encode --tokenizer runs/a --data data/mine --out data/mine_latents`.

Training a prior takes them in the place of images: --config.data.name=latents --config.data.path=data/mine_latents. The
same command goes on after an end half-way.
"""

import functools

from absl import flags

from rqjax.flags import cache

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_switch = functools.partial(flags.DEFINE_bool, flag_values=FLAGS)
TOKENIZER = _string("tokenizer", None, "Run directory of a tokenizer, or of a prior trained on one.")
DATA = _string("data", None, "A set of launch/prepare.py, or what --name says; the embedded Fashion-MNIST if none.")
NAME = flags.DEFINE_enum(
    "name",
    "folder",
    ["folder", "captions", "tars", "lmdb"],
    "Of --data, unless it is a set of launch/prepare.py: image files, a list with captions, WebDataset's tars, or the"
    " data bases of LSUN.",
    flag_values=FLAGS,
)
OUT = _string("out", None, "A folder that is empty, or not there.")
CODES = _switch(
    "codes", False, "Codes, not the vectors before quantization: smaller, all that DQ has, and no soft targets."
)
CROPS = _integer("crops", 1, "Views of each training image: the central crop, then random ones.", lower_bound=1)
CROP = flags.DEFINE_enum("crop", "random", ["random", "random_resized"], "The random crops.", flag_values=FLAGS)
FLIP = _switch("flip", False, "Each crop of a training image, and its mirror image.")
BATCH = _integer("batch", 64, "Views that are encoded at once.", lower_bound=1)
THREADS = _integer("threads", 8, "Images that are decoded at once.", lower_bound=1)
HOLDOUT = flags.DEFINE_float(
    "holdout", 0.05, "Share held out where no folders of splits are.", lower_bound=0, flag_values=FLAGS
)
PER_SHARD = _integer("per_shard", 4096, "Images of a file.", lower_bound=1)
SEED = _integer("seed", 0, "Of the random crops.", lower_bound=0)
cache.define(FLAGS)
