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
from rqjax.run.config import Config
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
        cls, config: Config, title: str, file: str, path: str, split: str, save: str, batches: Batches, *, over: bool
    ) -> "Real":
        """The images of a run by default: the split it was trained on, as papers compare. `title` is the judge's.

        Raises InputError for files that hold none, and for flags that contradict each other.
        """
        if file and (path or split or save):
            raise InputError("--reference has the statistics: leave --data, --split and --save_reference out")
        target = outputs.checked(save, (".npz",), overwrite=over, flag="--save_reference") if save else None
        if file:
            reference.check_file(file, title)
            return cls(file, Images(config.data, config.data.split), None, None, target)
        images = Images(config.data, split or config.data.split)
        if path:
            images = Images.of_folder(config.data, path, split or "all")
        whole = images.batches(batches.most, batches.mesh)
        own = not path and config.eval_split not in (images.split, config.data.split)
        others = None
        if own and images.split != "all":
            others = Images(config.data, config.eval_split).batches(batches.most, batches.mesh)
        return cls("", images, whole, others, target)

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
