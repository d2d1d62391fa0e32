"""A prior against real images: as many of each class, or one of each caption, at every guidance scale, kept, looked at
and compared.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from rqjax.api.batches import Batches
from rqjax.api.prior import LoadedPrior, Request
from rqjax.api.shards import Shards
from rqjax.errors import InputError
from rqjax.evaluation import clip_score
from rqjax.evaluation.captions import Captions
from rqjax.evaluation.classifier import class_accuracy
from rqjax.evaluation.clip_score import ClipScore
from rqjax.evaluation.judges import INCEPTION, Judge
from rqjax.evaluation.real import Real
from rqjax.evaluation.reference import look
from rqjax.evaluation.sets import Collected, Reference, compared
from rqjax.evaluation.tokenizer import NO_WEIGHTS, WEIGHTS
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.store import outputs

CAPTIONS = "captions.json"
"""Beside the shards of a prior that is led by texts: those of the images, in their order."""


@dataclasses.dataclass(frozen=True)
class Lot:
    """The images of one guidance scale, to be drawn or there already."""

    scale: float
    request: Request
    shards: Shards


@dataclasses.dataclass(frozen=True)
class Judges:
    """All that looks at the images of a prior; each may be None."""

    sets: Judge | None  # compares them with real images
    real: Reference | None  # what it compares them with
    labeller: Judge | None  # tells classes
    clip: ClipScore | None  # says how well they fit their captions


def lots(
    prior: LoadedPrior,
    count: int,
    seed: int,
    draws: Sequence[Draw],
    scales: Sequence[float],
    folder: pathlib.Path,
    captions: Captions | None,
    *,
    overwrite: bool,
) -> list[Lot]:
    """For every scale `count` images, as many of each class, or one of each caption. Nothing is drawn or written.

    All scales have the same seed. Raises InputError for a count that leaves classes unlike, for a scale that the prior
    does not take, and for a folder with other things.
    """
    texts = None if captions is None else captions.texts
    each = 1 if captions is not None else _of_each_class(prior, count, seed, draws)
    found = []
    for scale in scales:
        request = prior.request(None, texts, each, seed, draws, Guidance(scale=scale))
        name = f"{folder}/guidance_{scale:g}/"
        shards = Shards.checked(name, prior, request, overwrite=overwrite, flag="--images")
        found.append(Lot(scale, request, shards))
    return found


def _of_each_class(prior: LoadedPrior, count: int, seed: int, draws: Sequence[Draw]) -> int:
    """Images of each class. Raises InputError for a count that they do not divide."""
    classes = len(prior.request(None, None, 1, seed, draws, Guidance()).values)
    if count % classes or count < 2:
        raise InputError(
            f"--count is {count}, and this prior has {classes} classes: expected a multiple of {max(classes, 2)}, so"
            " that there are as many images of each"
        )
    return count // classes


def measured(
    prior: LoadedPrior,
    lot: Lot,
    judges: Judges,
    captions: Captions | None,
    batches: Batches,
    say: Callable[[str], None],
) -> dict[str, object]:
    """The figures of a lot, drawn as far as it is not there: under the title of the judge of sets, `class_accuracy`,
    and CLIP's.
    """
    lot.shards.draw(prior, lot.request, say)
    texts = [] if captions is None else captions.texts
    if texts:  # for others that look at the images
        outputs.write_text(lot.shards.folder / CAPTIONS, json.dumps(texts, ensure_ascii=False, indent=0) + "\n")
    seen = Collected()
    labels, logits, cosines = [], [], []
    for first, part in _parts(lot):
        images = part["arr_0"]
        if judges.sets is not None:
            look(judges.sets, batches, images, seen)
        if judges.labeller is not None and "label" in part:
            labels.append(part["label"])
            logits.append(batches.run(judges.labeller.look, images).logits)
        if judges.clip is not None:
            cosines.append(judges.clip.cosines(images, texts[first : first + len(images)], batches))
    found: dict[str, object] = {"guidance": lot.scale, "images": str(lot.shards.folder)}
    found["count"] = len(lot.request.values)
    if judges.sets is not None and judges.real is not None:
        found[judges.sets.title] = judges.sets.named(compared(judges.sets, seen, judges.real))
    if labels:
        found["class_accuracy"] = class_accuracy(np.concatenate(logits), np.concatenate(labels))
    if cosines:
        found[clip_score.TITLE] = clip_score.figures(np.concatenate(cosines))
    return found


def _parts(lot: Lot) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The shards of a lot, each with the place of its first image. Raises InputError if they are not all its images."""
    count, expected = 0, len(lot.request.values)
    for part in lot.shards.parts():
        first, count = count, count + len(part["arr_0"])
        if count <= expected:
            yield first, part
    if count != expected:
        raise InputError(
            f"{lot.shards.folder} has {count} images, expected {expected}: take out the shards that are not this"
            " program's"
        )


def beside(
    real: Real | None, judges: Judges, captions: Captions | None, batches: Batches
) -> dict[str, Mapping[str, float]] | None:
    """The figures of real images beside a prior's, by the name of their judge; None if there are none."""
    found: dict[str, Mapping[str, float]] = {}
    if real is not None and judges.sets is not None and judges.real is not None:
        floor = real.floor(judges.sets, judges.real)
        found |= {} if floor is None else {judges.sets.title: floor}
    if judges.clip is not None and captions is not None:
        found[clip_score.TITLE] = _real_fit(judges.clip, captions, batches)
    return found or None


def _real_fit(clip: ClipScore, captions: Captions, batches: Batches) -> dict[str, float]:
    """CLIP's figures of the real pictures of captions. Raises InputError if fewer than two can be read."""
    found = [clip.cosines(part.images, part.captions, batches) for part in captions.pictures(batches)]
    cosines = np.concatenate(found)
    if len(cosines) < 2:
        raise InputError(f"{len(cosines)} of the real pictures can be read, figures need two: give others as --data")
    return {**clip_score.figures(cosines), "count": len(cosines)}


def missing(judges: Judges, captions: Captions | None) -> list[str]:
    """Lines about figures that are not there, and why."""
    said = []
    if judges.sets is None:
        said.append(f"no FID: {NO_WEIGHTS}")
    elif judges.sets.title != INCEPTION:
        said.append(f"no FID: {WEIGHTS}")
    if captions is not None and judges.clip is None:
        said.append(clip_score.NO_WEIGHTS)
    return said
