"""New images from a prior: `rqjax sample --prior runs/quickstart/rqtransformer --label 8 --count 16 --out bags.png`."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from rqjax.data.images import named_rows, sheet, to_uint8
from rqjax.dq.transformer import DQTransformer
from rqjax.errors import InputError, printable
from rqjax.flags.sample import (
    BATCH,
    COUNT,
    EMA,
    FIXED_POSITIONS,
    GUIDANCE,
    GUIDANCE_DECAY,
    GUIDANCE_POWER,
    GUIDANCE_SCHEDULE,
    LABEL,
    OUT,
    OVERWRITE,
    POSITION_TEMPERATURE,
    POSITION_TOP_K,
    POSITION_TOP_P,
    PRIOR,
    SEED,
    TEMPERATURE,
    TOKENIZER,
    TOP_K,
    TOP_P,
)
from rqjax.interface import Prior, Tokenizer
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.run import devices
from rqjax.run.directory import Run
from rqjax.run.labels import chosen
from rqjax.stages.predict import PredictConfig
from rqjax.store import outputs

T = TypeVar("T")


def main(_: Sequence[str]) -> None:
    """Draws the images that the flags ask for."""
    if PRIOR.value is None:
        raise InputError("sample needs --prior DIR, the run directory of a prior")
    endings = (*outputs.PICTURES, outputs.ARRAYS, outputs.FOLDER)
    out = outputs.checked(OUT.value, endings, overwrite=OVERWRITE.value)
    run = Run.open(PRIOR.value)
    stage = run.config.stage
    if not isinstance(stage, PredictConfig):
        raise InputError(f"--prior {PRIOR.value} holds no prior: expected the run directory of one")
    other = Run.open(TOKENIZER.value or PRIOR.value).tokenizer()
    run.check_tokenizer(other)
    rows, draws = chosen(LABEL.value, stage.model.condition, run.classes), _draws(stage.model.streams)
    guidance = Guidance(
        scale=GUIDANCE.value, schedule=GUIDANCE_SCHEDULE.value, power=GUIDANCE_POWER.value, decay=GUIDANCE_DECAY.value
    )
    guidance.check(stage.model.condition.field, stage.model.condition_dropout)
    devices.say()
    prior, tokenizer = run.model(ema=EMA.value), other.model()
    labels = np.repeat(np.asarray(rows, np.int32), COUNT.value)
    key, fixed = jax.random.key(SEED.value), FIXED_POSITIONS.value
    drawn = sample(prior, tokenizer, labels, key, BATCH.value, draws, guidance=guidance, fixed_positions=fixed)
    images = np.concatenate(list(drawn))
    _write(out, images, labels, [run.classes[row] if run.classes else str(row) for row in rows])
    print(f"{out}: {len(images)} images of {images.shape[1]}x{images.shape[2]}")
    for licence in dict.fromkeys([*run.licences, *other.licences]):
        print(f"licence of the weights: {printable(licence, 200)}")


def _write(out: pathlib.Path, images: np.ndarray, labels: np.ndarray, rows: Sequence[str]) -> None:
    """Writes images as the name of `out` asks; a picture has a named row for each label, a lone one a square."""
    if outputs.is_folder(OUT.value):
        digits = len(str(len(images)))
        names = [f"{i:0{digits}}_label{label}.png" for i, label in enumerate(labels)]
        outputs.write_folder(out, dict(zip(names, images, strict=True)))
    elif out.suffix.lower() == outputs.ARRAYS:
        outputs.write_arrays(out, arr_0=images, label=labels)
    else:
        count, several = len(images) // len(rows), len(rows) > 1
        columns = count if several else min(count, int(np.ceil(count**0.5)))
        outputs.write_picture(out, picture(images, columns, rows if several else ()))


def _draws(streams: Sequence[str]) -> list[Draw]:
    """The settings of each stream, by the flags. Raises InputError for flags that the prior has no streams for."""
    settings: dict[str, list[Any]] = {
        "temperature": [_number("temperature", word, float) for word in TEMPERATURE.value],
        "top_k": [_number("top_k", word, int) for word in TOP_K.value] or [0],
        "top_p": [_number("top_p", word, float) for word in TOP_P.value],
    }
    flags_of_positions = (POSITION_TEMPERATURE, POSITION_TOP_K, POSITION_TOP_P)
    given = {flag.name: flag.value for flag in flags_of_positions if flag.value is not None}
    two = "positions" in streams
    if given and not two:
        raise InputError(f"--{next(iter(given))} is for DQ priors: this one has {', '.join(streams)}")
    each = 1 if two else len(streams)
    for name, values in settings.items():
        if len(values) not in (1, each):
            many = f"and that of positions as --position_{name}" if two else f"or one for each of {each} depths"
            raise InputError(f"--{name} has {len(values)} values: give one, {many}")
    draws = [Draw(**{name: values[i % len(values)] for name, values in settings.items()}) for i in range(each)]
    own: dict[str, Any] = {name.removeprefix("position_"): value for name, value in given.items()}
    draws = [*draws, dataclasses.replace(draws[0], **own)] if two else draws
    for draw, stream in zip(draws, streams, strict=True):
        draw.check(stream)
    return draws


def sample(
    prior: Prior,
    tokenizer: Tokenizer,
    labels: np.ndarray,
    key: jax.Array,
    batch: int,
    draws: Draw | Sequence[Draw],
    *,
    guidance: Guidance | None = None,
    fixed_positions: bool = True,
) -> Iterator[np.ndarray]:
    """uint8 images [<= batch, h, w, 3] for every label in turn, by one compiled program; the last may be fewer.

    `fixed_positions` is for DQ priors, see DQTransformer.generate.
    """
    decode = jax.jit(lambda tokenizer, codes: to_uint8(tokenizer.decode_codes(codes)))
    more: dict[str, Any] = {"fixed_positions": fixed_positions} if isinstance(prior, DQTransformer) else {}
    for i in range(0, len(labels), batch):
        part = labels[i : i + batch]
        whole = jnp.asarray(np.pad(part, (0, min(batch, len(labels)) - len(part)), mode="edge"))
        codes = prior.generate(tokenizer, whole, jax.random.fold_in(key, i), draws, guidance=guidance, **more)
        yield np.asarray(decode(tokenizer, codes))[: len(part)]


def picture(images: np.ndarray, columns: int, names: Sequence[str] = ()) -> np.ndarray:
    """One picture of all images, `columns` in a row, small ones enlarged, with the rows' names if there are any."""
    missing = -len(images) % columns
    images = np.concatenate([images, np.full((missing, *images.shape[1:]), 255, np.uint8)])
    shown = sheet(rearrange(images, "(r c) ... -> r c ...", c=columns))
    return named_rows(shown, names) if names else shown


def _number(flag: str, word: str, kind: Callable[[str], T]) -> T:
    try:
        return kind(word)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"--{flag} has {word!r}: expected {what}, or several between commas") from error
