"""Judges of sets of images: networks whose features are compared in the place of pixels."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from rqjax.data.images import to_float
from rqjax.metrics.protocols import PROTOCOLS, Protocol, Score
from rqjax.nets.classifier import Classifier
from rqjax.nets.inception import SPATIAL, Inception
from rqjax.store.arrays import to_arrays
from rqjax.torchfile.inception import load_inception

INCEPTION, CLASSIFIER = "inception", "classifier features"
"""The names under which their figures stand in a result."""
NAMES = {
    INCEPTION: {"frechet": "FID", "spatial": "sFID", "score": "IS", "kernel": "KID", "monge": "MIND"},
    CLASSIFIER: {
        "frechet": "frechet_distance",
        "score": "classifier_score",
        "kernel": "kernel_distance",
        "monge": "monge_distance",
    },
}
"""The names of figures by their judge: those of Inception alone have the names of the papers."""
SPATIAL_FEATURES = 17 * 17 * SPATIAL[1]
"""The numbers that sFID compares, of a map of 17x17."""
SCORE = Score(bias=True, size=5000)
"""How a classifier's logits are scored: in the order of the images, 5,000 at a time."""


class Looked(NamedTuple):
    """Images as a judge sees them."""

    features: Float[Array, "b d"]
    spatial: Float[Array, "b s"] | None  # sFID's, which Inception alone has
    logits: Float[Array, "b k"]


@dataclasses.dataclass(frozen=True)
class Judge:
    """A network, with everything about it that decides figures."""

    title: str  # INCEPTION or CLASSIFIER
    about: Mapping[str, object]
    look: Callable[[UInt8[Array, "b h w 3"]], Looked]
    score: Score | None  # None: the protocol has none
    features: int  # their number
    spatial: int = 0  # the number of sFID's; 0: none
    classes: int = 0  # of its logits, where they are those of the data

    def named(self, figures: Mapping[str, float], prefix: str = "") -> dict[str, float]:
        """Figures under the judge's names; `prefix` (r or p) goes before those of FID and sFID."""
        names = NAMES[self.title]
        marked = {"FID", "sFID"}
        found = {}
        for key, value in figures.items():
            stem, _, end = key.partition("_")
            name = names.get(stem, stem) + (f"_{end}" if end else "")
            found[prefix + name if name in marked else name] = value
        return found


def inception_judge(path: str, protocol: str, *, verify: bool = True) -> Judge:
    """FID's Inception from pytorch-fid's file, under a named protocol. Raises InputError for another file."""
    rules, network = PROTOCOLS[protocol], load_inception(path, verify=verify)
    about = {
        "protocol": protocol,
        "weights": pathlib.Path(path).name,
        "sha256": _file_digest(path),
        "weights_of_the_evaluator": rules.weights,
        "resize": f"{rules.resize} to 299x299",
        "pixels": f"(x - {rules.middle:g}) / {rules.middle:g} of bytes",
        "score": None if rules.score is None else dataclasses.asdict(rules.score),
    }
    look = functools.partial(_by_inception, network, rules)
    return Judge(INCEPTION, about, look, rules.score, network.head.in_features, SPATIAL_FEATURES)


def classifier_judge(classifier: Classifier, about: Mapping[str, object]) -> Judge:
    """A classifier of the data's own classes; `about` says where it comes from."""
    about = {
        **about,
        "sha256": fingerprint(classifier),
        "resize": "none",
        "pixels": "x / 127.5 - 1 of bytes",
        "score": dataclasses.asdict(SCORE),
    }
    head, look = classifier.network.head, functools.partial(_by_classifier, classifier)
    return Judge(CLASSIFIER, about, look, SCORE, head.in_features, classes=head.out_features)


def fingerprint(tree: PyTree[Array]) -> str:
    """The SHA-256 of all arrays of a tree, in the order of their names."""
    found = hashlib.sha256()
    for name, array in sorted(to_arrays(tree).items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _file_digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.partial(jax.jit, static_argnums=1)
def _by_inception(network: Inception, protocol: Protocol, image: UInt8[Array, "b h w 3"]) -> Looked:
    found = network(protocol.prepare(image))
    bias = protocol.score is None or protocol.score.bias
    return Looked(found.features, found.spatial, network.logits(found.features, bias=bias))


@jax.jit
def _by_classifier(classifier: Classifier, image: UInt8[Array, "b h w 3"]) -> Looked:
    features = classifier.network.features(to_float(image))
    return Looked(features, None, classifier.network.head(features))
