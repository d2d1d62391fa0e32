"""A prior against real images: as many of each class at every guidance scale, kept, looked at and compared."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rqjax.api.batches import Batches
from rqjax.api.prior import LoadedPrior, Request
from rqjax.api.shards import Shards
from rqjax.errors import InputError
from rqjax.evaluation.classifier import class_accuracy
from rqjax.evaluation.judges import Judge
from rqjax.evaluation.reference import look
from rqjax.evaluation.sets import Collected, Reference, compared
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw


@dataclasses.dataclass(frozen=True)
class Lot:
    """The images of one guidance scale, to be drawn or there already."""

    scale: float
    request: Request
    shards: Shards


def lots(
    prior: LoadedPrior,
    count: int,
    seed: int,
    draws: Sequence[Draw],
    scales: Sequence[float],
    folder: pathlib.Path,
    *,
    overwrite: bool,
) -> list[Lot]:
    """`count` images, as many of each class, for every scale. Nothing is drawn or written.

    All scales have the same seed. Raises InputError for a count that leaves classes unlike, for a scale that the prior
    does not take, and for a folder with other things.
    """
    classes = len(prior.request(None, None, 1, seed, draws, Guidance()).values)
    if count % classes or count < 2:
        least = max(classes, 2)
        raise InputError(
            f"--count is {count}, and this prior has {classes} classes: expected a multiple of {least}, so that there"
            " are as many images of each"
        )
    found = []
    for scale in scales:
        request = prior.request(None, None, count // classes, seed, draws, Guidance(scale=scale))
        name = f"{folder}/guidance_{scale:g}/"
        shards = Shards.checked(name, prior, request, overwrite=overwrite, flag="--images")
        found.append(Lot(scale, request, shards))
    return found


def measured(
    prior: LoadedPrior,
    lot: Lot,
    judge: Judge,
    labeller: Judge | None,
    reference: Reference,
    batches: Batches,
    say: Callable[[str], None],
) -> dict[str, object]:
    """The figures of a lot, drawn as far as it is not there: under the judge's title, and `class_accuracy`."""
    lot.shards.draw(prior, lot.request, say)
    seen, labels, logits = Collected(), [], []
    for part in lot.shards.parts():
        look(judge, batches, part["arr_0"], seen)
        if labeller is not None and "label" in part:
            labels.append(part["label"])
            logits.append(batches.run(labeller.look, part["arr_0"]).logits)
    if seen.count != len(lot.request.values):
        raise InputError(
            f"{lot.shards.folder} has {seen.count} images, expected {len(lot.request.values)}: take out the shards that"
            " are not this program's"
        )
    accuracy = class_accuracy(np.concatenate(logits), np.concatenate(labels)) if labels else None
    figures: Mapping[str, float] = judge.named(compared(judge, seen, reference))
    return {
        "guidance": lot.scale,
        "images": str(lot.shards.folder),
        "count": seen.count,
        judge.title: figures,
        **({} if accuracy is None else {"class_accuracy": accuracy}),
    }
