"""Which judge an evaluation has: Inception, a classifier that is there, or one that is trained first."""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from rqjax.errors import InputError
from rqjax.evaluation import classifier
from rqjax.evaluation.judges import CLASSIFIER, INCEPTION, Judge, Looked, classifier_judge, inception_judge
from rqjax.run.config import Config
from rqjax.run.directory import Run
from rqjax.torchfile import inception, published


@dataclasses.dataclass(frozen=True)
class Choice:
    """The judges that were asked for, looked at and found possible; nothing is computed yet."""

    inception: str  # the file; empty: none
    protocol: str
    verify: bool
    run: Run | None  # a classifier's
    training: Config | None  # of a classifier
    names: tuple[str, ...]  # of the classes of the data
    reason: str  # why there is no judge; empty if there is one

    @classmethod
    def checked(
        cls, trained: Config, inception_path: str, protocol: str, classifier_path: str, *, verify: bool
    ) -> "Choice":
        """The judge of a model that was trained as `trained` says. Raises InputError for files that cannot be one."""
        if inception_path:
            published.check_there("--inception", inception_path, inception.REMEDY)
        try:
            names = classifier.classes_of(trained.data)
            reason = "" if names else "its training images have no classes"
        except InputError as error:
            names, reason = (), f"its training images are not there ({error})"
        run = classifier.opened(classifier_path, trained.data.size, names) if classifier_path else None
        training = None
        if names and not inception_path and run is None:
            training = classifier.settings(trained.data, len(names))
        there = inception_path or run or training
        return cls(inception_path, protocol, verify, run, training, names, "" if there else reason)

    @property
    def title(self) -> str:
        """That of the judge."""
        return INCEPTION if self.inception else CLASSIFIER

    def judges(self, mesh: Mesh, keep: str, say: Callable[[str], None]) -> tuple[Judge | None, Judge | None]:
        """The judge, if there is one, and the one that tells classes, which may be the same."""
        main = None
        if self.inception:
            main = inception_judge(self.inception, self.protocol, verify=self.verify)
            main = dataclasses.replace(main, look=_within(mesh, main.look))
        labeller = None
        if self.run is not None:
            labeller = classifier_judge(self.run.model(), classifier.about_run(self.run))
        elif self.training is not None:
            network, about = classifier.trained(self.training, mesh, say)
            if keep:
                classifier.keep(keep, network, self.training, self.names)
            labeller = classifier_judge(network, about)
        return main or labeller, labeller


def _within(
    mesh: Mesh, look: Callable[[UInt8[Array, "b h w 3"]], Looked]
) -> Callable[[UInt8[Array, "b h w 3"]], Looked]:
    """`look` with a mesh in force: Inception goes image by image where no devices share a batch."""

    def looked(image: UInt8[Array, "b h w 3"]) -> Looked:
        with jax.set_mesh(mesh):
            return look(image)

    return looked
