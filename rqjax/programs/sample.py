"""New images from a prior: `rqjax sample --prior runs/quickstart/rqtransformer --label 8 --count 16 --out bags.png`."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from rqjax.data.images import enlarge, tile, to_uint8, write_png
from rqjax.errors import InputError
from rqjax.rq.sample import SamplingOptions
from rqjax.run.directory import check_tokenizer, licences, load_model, load_tokenizer

FLAGS = flags.FlagValues()
PRIOR = flags.DEFINE_string(
    "prior", None, "Run directory of a prior; it holds the tokenizer it was trained on.", flag_values=FLAGS
)
TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Run directory of another tokenizer with the same code grid.", flag_values=FLAGS
)
LABEL = flags.DEFINE_list(
    "label", [], "Class ids, one row of the picture each; all classes if not given.", flag_values=FLAGS
)
COUNT = flags.DEFINE_integer(
    "count", 16, "Images per class (or in all, for a prior without classes).", lower_bound=1, flag_values=FLAGS
)
TEMPERATURE = flags.DEFINE_list(
    "temperature", ["1.0"], "Softmax temperature, one value or one per depth.", flag_values=FLAGS
)
TOP_K = flags.DEFINE_list(
    "top_k", [], "Keep the k likeliest codes: one value or one per depth; all if not given.", flag_values=FLAGS
)
TOP_P = flags.DEFINE_list(
    "top_p",
    ["1.0"],
    "Keep the likeliest codes that hold this probability: one value or one per depth.",
    flag_values=FLAGS,
)
SEED = flags.DEFINE_integer("seed", 0, "The same seed gives the same images.", flag_values=FLAGS)
BATCH = flags.DEFINE_integer("batch", 64, "Images made at once.", lower_bound=1, flag_values=FLAGS)
EMA = flags.DEFINE_bool("ema", True, "Use the averaged weights where the run kept them.", flag_values=FLAGS)
OUT = flags.DEFINE_string(
    "out", "samples.png", "The picture; with the ending .npz, arrays `image` and `label`.", flag_values=FLAGS
)


def main(_: Sequence[str]) -> None:
    """Samples what the flags describe."""
    if PRIOR.value is None:
        raise InputError("sample needs --prior DIR, the run directory of a prior")
    config, prior = load_model(PRIOR.value, ema=EMA.value)
    if not hasattr(prior, "generate"):
        raise InputError(f"--prior {PRIOR.value} holds a tokenizer: expected the run directory of a prior")
    other, tokenizer = load_tokenizer(TOKENIZER.value or PRIOR.value)
    check_tokenizer(config, other)
    classes = config.stage.model.classes
    rows = [_number("label", x, int) for x in LABEL.value] or list(range(classes or 1))
    labels = np.repeat(np.asarray(rows, np.int32), COUNT.value)
    options = SamplingOptions(
        temperature=_numbers("temperature", TEMPERATURE.value, float),
        top_k=_numbers("top_k", TOP_K.value, int),
        top_p=_numbers("top_p", TOP_P.value, float),
    )
    images = np.concatenate(list(sample(prior, tokenizer, labels, jax.random.key(SEED.value), BATCH.value, options)))
    out = pathlib.Path(OUT.value)
    if out.suffix == ".npz":
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out, image=images, label=labels)
    else:
        columns = COUNT.value if len(rows) > 1 else min(COUNT.value, int(np.ceil(COUNT.value**0.5)))
        write_png(out, picture(images, columns))
    print(f"{out}: {len(images)} images of {images.shape[1]}x{images.shape[2]}")
    for licence in licences(*filter(None, (PRIOR.value, TOKENIZER.value))):
        print(f"licence of the weights: {licence}")


def sample(
    prior: Any, tokenizer: Any, labels: np.ndarray, key: jax.Array, batch: int, options: Any
) -> Iterator[np.ndarray]:
    """uint8 images [<= batch, h, w, 3] for every label in turn, by one compiled program; the last may be fewer."""
    decode = jax.jit(lambda tokenizer, codes: to_uint8(tokenizer.decode_codes(codes)))
    for i in range(0, len(labels), batch):
        part = labels[i : i + batch]
        whole = jnp.asarray(np.pad(part, (0, min(batch, len(labels)) - len(part)), mode="edge"))
        codes = prior.generate(tokenizer, whole, jax.random.fold_in(key, i), options)
        yield np.asarray(decode(tokenizer, codes))[: len(part)]


def picture(images: np.ndarray, columns: int) -> np.ndarray:
    """One picture of all images, `columns` in a row, small ones enlarged."""
    missing = -len(images) % columns
    images = np.concatenate([images, np.full((missing, *images.shape[1:]), 255, np.uint8)])
    rows = images.reshape(-1, columns, *images.shape[1:])
    return enlarge(tile(rows), max(1, 64 // images.shape[1]))


def _numbers(flag: str, words: Sequence[str], kind: type) -> Any:
    values = [_number(flag, word, kind) for word in words]
    return (values[0] if len(values) == 1 else tuple(values)) if values else None


def _number(flag: str, word: str, kind: type) -> Any:
    try:
        return kind(word)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"--{flag} has {word!r}: expected {what}, or several between commas") from error
