"""New images from a prior: `rqjax sample --prior runs/quickstart/rqtransformer --label 8 --count 16 --out bags.png`."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from rqjax.api.batches import Batches
from rqjax.api.classifier import LoadedClassifier
from rqjax.api.pictures import ENDINGS
from rqjax.api.prior import LoadedPrior
from rqjax.api.shards import Shards
from rqjax.checks import number_of
from rqjax.errors import InputError, printable
from rqjax.flags.sample import (
    ACCEPTANCE,
    BATCH,
    COUNT,
    DTYPE,
    EMA,
    FIXED_POSITIONS,
    FLAGS,
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
    SCORER,
    SEED,
    SHARDS,
    TEMPERATURE,
    TEXT,
    TOKENIZER,
    TOP_K,
    TOP_P,
)
from rqjax.interface import Condition
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.run import devices, hosts
from rqjax.run.directory import Run
from rqjax.run.labels import chosen
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import outputs


def main(_: Sequence[str]) -> None:
    """Draws the images that the flags ask for."""
    if PRIOR.value is None:
        raise InputError("sample needs --prior DIR, the run directory of a prior")
    own, processes = share = hosts.share(FLAGS)
    sharded = OUT.value.endswith("/") and "://" not in OUT.value
    if not sharded and processes > 1:
        raise InputError(f"{processes} processes draw shards of their own, and --out is {OUT.value}: let that end in /")
    if not sharded:
        if SHARDS.present:
            raise InputError(f"--shards is for folders of shards, and --out is {OUT.value}: let that end in /")
        outputs.checked(OUT.value, ENDINGS, overwrite=OVERWRITE.value)
    run = Run.open(PRIOR.value)
    stage = run.config.stage
    if not isinstance(stage, PredictConfig):
        raise InputError(f"--prior {PRIOR.value} holds no prior: expected the run directory of one")
    other = Run.open(TOKENIZER.value or PRIOR.value).tokenizer()
    run.check_tokenizer(other)
    labels, draws = _labels(stage.model.condition, run.classes), _draws(stage.model.streams, stage.draw)
    scale = stage.guidance if GUIDANCE.value is None else GUIDANCE.value
    guidance = Guidance(
        scale=scale, schedule=GUIDANCE_SCHEDULE.value, power=GUIDANCE_POWER.value, decay=GUIDANCE_DECAY.value
    )
    guidance.check(stage.model.condition.field, stage.model.condition_dropout)
    batches = Batches.over(most=BATCH.value)
    prior = LoadedPrior(run, batches, ema=EMA.value, tokenizer=other, dtype=DTYPE.value)
    texts, fixed = TEXT.value or None, FIXED_POSITIONS.value
    judge = {"scorer": _scorer(batches), "acceptance": ACCEPTANCE.value}
    request = prior.request(labels, texts, COUNT.value, SEED.value, draws, guidance, fixed_positions=fixed, **judge)
    shards = (
        Shards.checked(OUT.value, prior, request, overwrite=OVERWRITE.value, kind=SHARDS.value) if sharded else None
    )
    devices.say()
    plan = prior.plan(request)
    plan.check()
    print(f"memory: {plan}", flush=True)
    if shards is None:
        pictures = prior.draw(request)
        pictures.write(OUT.value)
        print(f"{OUT.value}: {pictures!r}")
    else:
        shards.draw(prior, request, functools.partial(print, flush=True), share)
        its = f", of which this process drew the shards {own}, {own + processes}, ..." if processes > 1 else ""
        print(f"{OUT.value}: {len(request.values)} images of {prior.resolution}x{prior.resolution}{its}")
    for licence in prior.licences:
        print(f"licence of the weights: {printable(licence, 200)}")


def _labels(condition: Condition, names: Sequence[str]) -> list[int] | None:
    """The classes that --label names, if it does. Raises InputError for flags that the prior is not led by."""
    if condition.field != "text" or LABEL.value:
        rows = chosen(LABEL.value, condition, names)
        if TEXT.value:
            raise InputError("--text is for priors that are led by texts, and this one is not: leave it out")
        return rows if LABEL.value else None
    if not TEXT.value:
        raise InputError("this prior is led by a text: say one with --text")
    return None


def _scorer(batches: Batches) -> LoadedClassifier | None:
    """The classifier that --scorer names. Raises InputError for another model."""
    if SCORER.value is None:
        return None
    run = Run.open(SCORER.value)
    if not isinstance(run.config.stage, ClassifyConfig):
        raise InputError(f"--scorer {SCORER.value} holds no classifier: expected the run directory of one")
    return LoadedClassifier(run, batches)


def _draws(streams: Sequence[str], own: Draw) -> list[Draw]:
    """The settings of each stream, by the flags, else the run's `own`. Raises InputError for flags without a stream."""
    kinds = ((TEMPERATURE, float), (TOP_K, int), (TOP_P, float))
    settings: dict[str, list[Any]] = {}
    for flag, kind in kinds:
        words = flag.value
        said = None if words is None else [number_of(flag.name, word, kind) for word in words]
        settings[flag.name] = [getattr(own, flag.name)] if said is None else said
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
    others: dict[str, Any] = {name.removeprefix("position_"): value for name, value in given.items()}
    draws = [*draws, dataclasses.replace(draws[0], **others)] if two else draws
    for draw, stream in zip(draws, streams, strict=True):
        draw.check(stream)
    return draws
