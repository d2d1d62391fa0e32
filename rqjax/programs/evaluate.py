"""The figures of papers: `rqjax evaluate --tokenizer RUN`, or `rqjax evaluate --prior RUN --count 1000`."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from rqjax.api.batches import Batches
from rqjax.api.loaded import LoadedTokenizer
from rqjax.api.prior import LoadedPrior, draws_by_stream
from rqjax.checks import number_of
from rqjax.errors import InputError
from rqjax.evaluation import clip_score, curve, kept, prior, result, tokenizer
from rqjax.evaluation.captions import Captions
from rqjax.evaluation.choice import Choice
from rqjax.evaluation.clip_score import ClipScore
from rqjax.evaluation.images import Images
from rqjax.evaluation.judges import CLASSIFIER, INCEPTION, Judge
from rqjax.evaluation.real import Real
from rqjax.flags import evaluate as flags
from rqjax.interface import Condition
from rqjax.metrics.ssim import WINDOW
from rqjax.nets.sampling import Draw
from rqjax.run import devices
from rqjax.run.directory import Run
from rqjax.run.log import FILE as METRICS
from rqjax.stages.predict import PredictConfig
from rqjax.store import outputs
from rqjax.torchfile import lpips

say = functools.partial(print, flush=True)
OF_TOKENIZERS = (flags.LPIPS, flags.LIMIT)
OF_PRIORS = (flags.COUNT, flags.GUIDANCE, flags.TEMPERATURE, flags.TOP_K, flags.TOP_P, flags.IMAGES)
OF_PRIORS += (flags.REFERENCE, flags.SAVE_REFERENCE, flags.CLIP, flags.CLIP_VOCABULARY)


def main(_: Sequence[str]) -> None:
    """Measures the run that the flags name."""
    measured, led = flags.TOKENIZER.value, flags.PRIOR.value
    if (measured is None) == (led is None):
        raise InputError("evaluate needs --tokenizer DIR or --prior DIR, the run directory of one")
    _refuse_flags(OF_TOKENIZERS if measured is None else OF_PRIORS, "tokenizer" if measured is None else "prior")
    out = outputs.checked(flags.OUT.value, (".json",), overwrite=flags.OVERWRITE.value)
    if flags.KEEP_CLASSIFIER.value:
        outputs.checked(flags.KEEP_CLASSIFIER.value, (outputs.FOLDER,), flag="--keep_classifier")
    if measured is not None:
        _tokenizer(measured, out)
    if led is not None:
        _prior(led, out)
    say(f"{out}: the figures with everything that decides them")


def _refuse_flags(holders: Sequence[absl_flags.FlagHolder], kind: str) -> None:
    """Refuses flags that mean something for the other kind of run alone."""
    for holder in holders:
        if flags.FLAGS[holder.name].present:
            raise InputError(f"--{holder.name} is for a {kind}: leave it out")


def _choice(run: Run) -> Choice:
    return Choice.checked(
        run.config, flags.INCEPTION.value, flags.PROTOCOL.value, flags.CLASSIFIER.value, verify=flags.VERIFY.value
    )


def _tokenizer(path: str, out: pathlib.Path) -> None:
    run = Run.open(path).tokenizer()
    size = run.tokenizer_config.resolution
    if size < WINDOW:
        raise InputError(f"{run.path} makes images of {size}x{size}: SSIM needs {WINDOW}x{WINDOW} pixels or more")
    if flags.LPIPS.value:
        lpips.check_there(flags.LPIPS.value)
    choice, batches = _choice(run), Batches.over(most=flags.BATCH.value)
    images = Images.held_out(run.config, flags.DATA.value, flags.SPLIT.value)
    held_out = images.batches(flags.BATCH.value, batches.mesh, flags.LIMIT.value)
    network = lpips.load_lpips(flags.LPIPS.value, verify=flags.VERIFY.value) if flags.LPIPS.value else None
    devices.say()
    judge, _ = choice.judges(batches.mesh, flags.KEEP_CLASSIFIER.value, say)
    loaded = LoadedTokenizer(run, batches, ema=flags.EMA.value)
    found = tokenizer.measured(loaded.everywhere, held_out, judge, batches.everywhere(network), seed=flags.SEED.value)
    points = curve.curve(loaded.everywhere, held_out, batches.everywhere(network))
    missing = tokenizer.missing(judge, network is not None, size)
    if judge is None:
        missing.append(f"no figures of sets of images: {choice.reason}")
    about = None if judge is None else judge.about
    written = {
        "kind": "tokenizer",
        "run": result.of_run(run, loaded.model, ema=flags.EMA.value),
        "images": images.about(found.images),
        "protocol": result.protocol(about, seed=flags.SEED.value, perturbed_codes=tokenizer.perturbation()),
        "figures": found.means,
        "codes": found.codes,
        "bits_of_the_codes_of_an_image": found.bits,
        "rate_distortion": [dataclasses.asdict(point) for point in points],
        "rate_distortion_in_words": curve.verdict(points),
        **({} if judge is None else {judge.title: found.judged}),
        "missing": missing,
    }
    result.write(out, written)
    if (run.path / METRICS).is_file():  # what `rqjax report` takes
        try:
            kept.keep(run.path, run.step, images.about(found.images), points, found.codes)
        except OSError as error:
            say(f"{run.path} takes no {kept.FILE} for `rqjax report` ({error.strerror or error})")
    _say_tokenizer(found, points, judge, missing)


def _say_tokenizer(
    found: tokenizer.Measured, points: Sequence[curve.Point], judge: Judge | None, missing: Sequence[str]
) -> None:
    say(f"{found.images} images")
    say(result.table([{**found.means, **{f"{name} bits": bits for name, bits in found.bits.items()}}]))
    say("\n" + result.table([{"codes": name, **figures} for name, figures in found.codes.items()]))
    say("\n" + result.table([dataclasses.asdict(point) for point in points]) + f"\n{curve.verdict(points)}")
    if judge is not None:
        say("\n" + result.turned(judge.title, found.judged))
    for line in missing:
        say(line)


def _prior(path: str, out: pathlib.Path) -> None:
    run, batches = Run.open(path), Batches.over(most=flags.BATCH.value)
    stage, over = run.config.stage, flags.OVERWRITE.value
    if not isinstance(stage, PredictConfig):
        raise InputError(f"--prior {path} holds no prior: expected the run directory of one")
    choice = _choice(run)
    captions = _captions(run, stage.model.condition, choice)
    loaded, draws = LoadedPrior(run, batches, ema=flags.EMA.value), _draws(stage.model.streams)
    scales = [number_of("guidance", word, float) for word in flags.GUIDANCE.value]
    folder = pathlib.Path(flags.IMAGES.value or f"{out.with_suffix('')}_images")
    asked = prior.lots(loaded, flags.COUNT.value, flags.SEED.value, draws, scales, folder, captions, overwrite=over)
    real = None if choice.reason else _real(run, captions, choice.title, batches)
    devices.say()
    clip = _clip()
    sets, labeller = choice.judges(batches.mesh, flags.KEEP_CLASSIFIER.value, say)
    known = None if real is None or sets is None else real.statistics(sets, batches, loaded.resolution)
    judges = prior.Judges(sets, known, labeller, clip)
    found = [prior.measured(loaded, lot, judges, captions, batches, say) for lot in asked]
    beside = prior.beside(real, judges, captions, batches)
    missing = prior.missing(judges, captions)
    written = {
        "kind": "prior",
        **_origin(loaded),
        "protocol": result.protocol(
            None if sets is None else sets.about,
            seed=flags.SEED.value,
            draws={name: dataclasses.asdict(draw) for name, draw in zip(stage.model.streams, draws, strict=True)},
            **({"classifier": labeller.about} if labeller is not None and labeller is not sets else {}),
            **({} if clip is None else {clip_score.TITLE: clip.about}),
        ),
        "real_images": known and {**known.about, "count": known.count},
        "captions": captions and captions.about(),
        "results": found,
        "held_out_images": beside,
        "missing": missing,
    }
    result.write(out, written)
    _say_prior(found, beside, missing)


def _captions(run: Run, condition: Condition, choice: Choice) -> Captions | None:
    """The captions of a prior that is led by some. Raises InputError for flags that mean something for the others."""
    if flags.CLIP_VOCABULARY.value and not flags.CLIP.value:
        raise InputError("--clip_vocabulary is read with --clip FILE: pass it too")
    judged = f"{run.path}: nothing can judge its images, since {choice.reason}: pass --inception FILE"
    if condition.field != "text":
        if flags.CLIP.value:
            raise InputError(f"--clip is for a prior that is led by texts, and {run.path} is led by none: leave it out")
        if choice.reason:
            raise InputError(judged)
        return None
    if flags.CLIP.value:
        clip_score.check_files(flags.CLIP.value, _clip_words())
    elif choice.reason:
        raise InputError(f"{judged}, or --clip FILE")
    for holder in (flags.REFERENCE, flags.SAVE_REFERENCE):
        if holder.value and choice.reason:
            raise InputError(
                f"--{holder.name} is for figures of sets of images: pass --inception FILE, or leave it out"
            )
    return Captions.checked(run.config, flags.DATA.value, flags.SPLIT.value, flags.COUNT.value)


def _clip_words() -> str:
    return flags.CLIP_VOCABULARY.value or str(pathlib.Path(flags.CLIP.value).parent)


def _clip() -> ClipScore | None:
    path = flags.CLIP.value
    return ClipScore.read(path, _clip_words(), verify=flags.VERIFY.value) if path else None


def _real(run: Run, captions: Captions | None, title: str, batches: Batches) -> Real:
    """The images that a prior's are compared with: of its captions, or those that it was trained on."""
    file, data, split = flags.REFERENCE.value, flags.DATA.value, flags.SPLIT.value
    if file and captions is None and (data or split):
        raise InputError("--reference has the statistics: leave --data and --split out")
    images, others = (captions.images, None) if captions else Images.of_training(run.config, data, split)
    return Real.checked(images, others, title, file, flags.SAVE_REFERENCE.value, batches, over=flags.OVERWRITE.value)


def _draws(streams: Sequence[str]) -> list[Draw]:
    return draws_by_stream(
        streams,
        [number_of("temperature", word, float) for word in flags.TEMPERATURE.value],
        [number_of("top_k", word, int) for word in flags.TOP_K.value],
        [number_of("top_p", word, float) for word in flags.TOP_P.value],
    )


def _origin(loaded: LoadedPrior) -> dict[str, object]:
    """The weights of a prior and of its tokenizer."""
    pair = {"run": loaded, "tokenizer": loaded.tokenizer}
    return {name: result.of_run(each.run, each.model, ema=each.ema) for name, each in pair.items()}


def _say_prior(
    found: Sequence[Mapping[str, Any]], beside: Mapping[str, Mapping[str, float]] | None, missing: Sequence[str]
) -> None:
    columns = {f"guidance {lot['guidance']:g}": lot for lot in found}
    columns |= {"real images held out": beside} if beside else {}
    for title in (INCEPTION, CLASSIFIER, clip_score.TITLE):
        rows = {head: lot[title] for head, lot in columns.items() if title in lot}
        if rows:
            say(result.turned(title, rows) + "\n")
    accuracy = {head: {"class": lot["class_accuracy"]} for head, lot in columns.items() if "class_accuracy" in lot}
    if accuracy:
        say(result.turned("share of images with the one asked for", accuracy) + "\n")
    for line in missing:
        say(line)
