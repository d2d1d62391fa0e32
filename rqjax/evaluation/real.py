"""The real images that a prior's are compared with: those of its data, of a folder, or statistics in a file."""

import dataclasses
import pathlib

from rqjax.api.batches import Batches
from rqjax.data import HeldOut
from rqjax.errors import InputError
from rqjax.evaluation import reference
from rqjax.evaluation.images import Images
from rqjax.evaluation.judges import Judge
from rqjax.evaluation.sets import KEPT, Collected, Reference, compared
from rqjax.store import outputs


@dataclasses.dataclass(frozen=True)
class Real:
    """Where they come from, looked at and found to be there."""

    file: str  # of statistics; empty if images are read
    images: Images
    batches: HeldOut | None  # of all images
    others: HeldOut | None  # held out beside them: real images against real ones are the least that a prior can reach
    target: pathlib.Path | None  # where the statistics are kept

    @classmethod
    def checked(
        cls, images: Images, others: Images | None, title: str, file: str, save: str, batches: Batches, *, over: bool
    ) -> "Real":
        """Those of `images`, or the statistics in `file`. `title` is the judge's.

        Raises InputError for files that hold none, and for statistics that would be read and written.
        """
        if file and save:
            raise InputError("--reference has the statistics: leave --save_reference out")
        target = outputs.checked(save, (".npz",), overwrite=over, flag="--save_reference") if save else None
        if file:
            reference.check_file(file, title)
            return cls(file, images, None, None, target)
        whole = images.batches(batches.most, batches.mesh)
        beside = None if others is None else others.batches(batches.most, batches.mesh)
        return cls("", images, whole, beside, target)

    def statistics(self, judge: Judge, batches: Batches, size: int) -> Reference:
        """Those of the images, which are written if that was asked for, or of the file."""
        if self.batches is None:
            return reference.load(self.file, judge, batches, size)
        seen = _seen(judge, self.batches, Collected(KEPT))
        if seen.count < 2:
            raise InputError(f"{seen.count} of the real images can be read, statistics need two: give others as --data")
        found = seen.reference(self.images.about(seen.count))
        if self.target is not None:
            reference.save(self.target, found, judge)
        return found

    def floor(self, judge: Judge, known: Reference) -> dict[str, float] | None:
        """The figures of held-out images, if there are some beside those of the statistics."""
        if self.others is None:
            return None
        seen = _seen(judge, self.others, Collected())
        return judge.named(compared(judge, seen, known)) if seen.count > 1 else None


def _seen(judge: Judge, images: HeldOut, into: Collected) -> Collected:
    for batch in images:
        into.add(judge.look(batch["image"]), batch["counts"])
    return into
