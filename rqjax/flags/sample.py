"""New images from a prior: `rqjax sample --prior runs/quickstart/rqtransformer --label 8 --count 16 --out bags.png`."""

import functools

from absl import flags

from rqjax.flags import cache, overwrite, precisions, processes

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_list = functools.partial(flags.DEFINE_list, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
OWN = "that of the run's previews if not given"
PRIOR = _string("prior", None, "Run directory of a prior; it holds the tokenizer it was trained on.")
TOKENIZER = _string("tokenizer", None, "Run directory of another tokenizer with the same code grid.")
LABEL = _list("label", [], "Names or ids of classes, one row of the picture each; all classes if not given.")
TEXT = flags.DEFINE_multi_string(
    "text", [], "A caption, one row of the picture; may be given several times.", flag_values=FLAGS
)
COUNT = _integer(
    "count", 16, "Images per class or text (or in all, for a prior without classes).", lower_bound=1, upper_bound=10**6
)
TEMPERATURE = _list("temperature", None, f"Softmax temperature, one value or one per depth; {OWN}.")
TOP_K = _list("top_k", None, f"Keep the k likeliest codes, 0 for all: one value or one per depth; {OWN}.")
TOP_P = _list(
    "top_p", None, f"Keep the likeliest codes that hold this probability, 1 for all: one value or one per depth; {OWN}."
)
POSITION_TEMPERATURE = flags.DEFINE_float(
    "position_temperature", None, "Of a DQ prior's positions; that of its contents if not given.", flag_values=FLAGS
)
POSITION_TOP_K = _integer("position_top_k", None, "The same for top_k; 0 keeps all.")
POSITION_TOP_P = flags.DEFINE_float("position_top_p", None, "The same for top_p.", flag_values=FLAGS)
FIXED_POSITIONS = flags.DEFINE_bool(
    "fixed_positions",
    True,
    "Of a DQ prior: the finest grain's positions are all that is left, in order; else they are drawn.",
    flag_values=FLAGS,
)
GUIDANCE = flags.DEFINE_float(
    "guidance",
    None,
    "Classifier-free guidance, for a prior trained with condition_dropout: above 1 images are more of their class and"
    f" more alike; 1 turns it off; {OWN}.",
    flag_values=FLAGS,
)
GUIDANCE_SCHEDULE = _string(
    "guidance_schedule", "constant", "Its growth over the positions: constant, linear or power-cosine."
)
GUIDANCE_POWER = flags.DEFINE_float("guidance_power", 1.0, "The exponent of power-cosine.", flag_values=FLAGS)
GUIDANCE_DECAY = flags.DEFINE_float(
    "guidance_decay",
    1.0,
    "The factor on guidance - 1 from depth to depth, or, in a DQ prior, from contents to positions.",
    flag_values=FLAGS,
)
SCORER = _string("scorer", None, "Run directory of a classifier: the images of each class that it is surest of stay.")
ACCEPTANCE = flags.DEFINE_float(
    "acceptance", None, "The share of drawn images that stays with --scorer; 0.25 if not given.", flag_values=FLAGS
)
SEED = _integer("seed", 0, "The same seed gives the same images.", lower_bound=-(2**63), upper_bound=2**63 - 1)
BATCH = _integer("batch", 64, "Images made at once.", lower_bound=1, upper_bound=10**6)
EMA = flags.DEFINE_bool("ema", True, "Use the averaged weights where the run kept them.", flag_values=FLAGS)
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    precisions.NAMES,
    "Of the prior's parameters, its computation and that of the pixels: bfloat16 takes half of the memory; int8 has the"
    " weights of the prior's layers in a quarter of it, and computes in bfloat16 (on CPUs float32); as they were"
    " trained if not given.",
    flag_values=FLAGS,
)
OUT = _string(
    "out",
    "samples.png",
    "One picture (.png, .jpg, .webp), arrays `arr_0` (images) and `label` (.npz), or a folder of single pictures (no"
    " ending). A name that ends in / is a folder of shards of 1,024 images, with as many of each class; the same"
    " command goes on there after an end half-way.",
)
SHARDS = flags.DEFINE_enum(
    "shards",
    "npz",
    ["npz", "tar"],
    "Of a folder of shards: arrays as ADM's evaluator reads them, or tars of PNG files and class numbers as WebDataset"
    " does.",
    flag_values=FLAGS,
)
OVERWRITE = overwrite.define(FLAGS)
cache.define(FLAGS)
processes.define(FLAGS)
