"""The figures of papers: `rqjax evaluate --tokenizer RUN`, or `rqjax evaluate --prior RUN --count 1000 --guidance 1,2`.

A tokenizer's reconstructions of held-out images, the use and the bits of its codes, its rate-distortion curve; or a
prior's images at several guidance scales against real ones. Everything that decides a figure is in the result. FID and
its kin need Inception's weights (--inception); without them the same figures are in the features of a classifier of the
data's own classes, under other names: they compare models on one data set, and with no published figure.
"""

import functools

from absl import flags

from rqjax.flags import cache, overwrite

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_list = functools.partial(flags.DEFINE_list, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
TOKENIZER = _string("tokenizer", None, "Run directory of a tokenizer, or of a prior that holds one, to be measured.")
PRIOR = _string("prior", None, "Run directory of a prior to be measured; it holds its tokenizer.")
OUT = _string("out", "eval.json", "The result (.json), written when it is complete.")
DATA = _string(
    "data",
    "",
    "Folder of the real images. If not given, those of the run's own data: a tokenizer is measured on the ones held"
    " out, a prior is compared with the ones that it was trained on, as papers do. For a prior that is"
    " led by texts, a list of images with captions, or WebDataset's tars, whose held-out captions it draws images for.",
)
SPLIT = _string("split", "", "Which images of the data, if not those: train, validation, test, all.")
LIMIT = _integer("limit", 0, "Of a tokenizer: at most so many of the images; 0 takes all.", lower_bound=0)
INCEPTION = _string(
    "inception", "", "pt_inception-2015-12-05-6726825d.pth, of pytorch-fid's releases, or classify_image_graph_def.pb."
)
PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "adm",
    ["adm", "torch-fidelity", "pytorch-fid", "clean-fid"],
    "The evaluator whose resize, scale and parts Inception's figures follow.",
    flag_values=FLAGS,
)
CLASSIFIER = _string(
    "classifier",
    "",
    "Run directory of a classifier of the data's classes. If neither it nor --inception is given, a small one is"
    " trained on the run's training images first, if these have classes.",
)
KEEP_CLASSIFIER = _string("keep_classifier", "", "Folder for the classifier trained here: --classifier takes it.")
CLIP = _string(
    "clip",
    "",
    "Of a prior that is led by texts: model.safetensors or pytorch_model.bin of"
    " huggingface.co/openai/clip-vit-base-patch32, for its CLIP score.",
)
CLIP_VOCABULARY = _string(
    "clip_vocabulary", "", "Folder of CLIP's vocab.json and merges.txt; if not given, the one that --clip is in."
)
LPIPS = _string("lpips", "", "torchvision's vgg16-397923af.pth, for a tokenizer's LPIPS.")
VERIFY = flags.DEFINE_bool("verify", True, "Compare the SHA-256 of published weights.", flag_values=FLAGS)
REFERENCE = _string(
    "reference",
    "",
    "Of a prior: statistics of real images (.npz) in the place of --data: of --save_reference, ADM's official ones,"
    " pytorch-fid's, or plain images as arr_0.",
)
SAVE_REFERENCE = _string("save_reference", "", "Of a prior: keep the statistics of the real images as .npz.")
COUNT = _integer(
    "count",
    10_000,
    "Images of a prior at each scale, as many of each class, or one of each of so many captions, if there are.",
    lower_bound=1,
    upper_bound=10**7,
)
GUIDANCE = _list("guidance", ["1"], "Guidance scales of a prior; 1 is none.")
TEMPERATURE = _list("temperature", ["1"], "Softmax temperature, one value or one per depth.")
TOP_K = _list("top_k", ["0"], "Keep the k likeliest codes, one value or one per depth; 0 keeps all.")
TOP_P = _list("top_p", ["1"], "Keep the likeliest codes that hold this probability, one value or one per depth.")
IMAGES = _string(
    "images",
    "",
    "Folder for a prior's images, .npz shards that ADM's evaluator reads; if not given, it has the name of --out. After"
    " an end half-way the same command goes on there.",
)
SEED = _integer("seed", 0, "Of all that is drawn.", lower_bound=-(2**63), upper_bound=2**63 - 1)
BATCH = _integer("batch", 64, "Images computed at once.", lower_bound=1, upper_bound=10**6)
EMA = flags.DEFINE_bool("ema", True, "Use the averaged weights where the run kept them.", flag_values=FLAGS)
OVERWRITE = overwrite.define(FLAGS)
cache.define(FLAGS)
