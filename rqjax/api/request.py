"""Images that are asked for of a prior, and the best of many where a scorer chooses."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from rqjax.api.inputs import FoundCodes
from rqjax.api.pictures import Pictures
from rqjax.api.rejection import Rejection, best
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw

PART = 1024
"""Images drawn before the best of them are chosen, if there are more."""


@dataclasses.dataclass(frozen=True)
class Request:
    """Images to be drawn, looked at and found possible."""

    values: Int[np.ndarray, "n ..."]  # of the condition, one for each image
    rows: tuple[str, ...]
    draws: Sequence[Draw]
    guidance: Guidance
    seed: int
    given: FoundCodes | None
    fixed_positions: bool
    groups: Int[np.ndarray, "n"]  # the row of each image
    rejection: Rejection | None = None  # more images are drawn, and the best of each row stay
    first: int = 0  # the place of the first image that is drawn

    def at(self, places: Int[np.ndarray, "m"] | slice, first: int = 0) -> "Request":
        """The same for the images at some places of this one."""
        given = None if self.given is None else jax.tree.map(lambda x: x[places], self.given)
        parts = {"values": self.values[places], "groups": self.groups[places], "given": given}
        return dataclasses.replace(self, **parts, first=first)

    @property
    def candidates(self) -> Int[np.ndarray, "m"]:
        """For each image to be drawn, the place of one that it may become."""
        return np.arange(len(self.values)) if self.rejection is None else self.rejection.candidates(self.groups)


def best_of(request: Request, draw: Callable[[Request], Pictures]) -> Pictures:
    """The best images of each row of a request, of as many more as its rejection asks for. Drawn part by part: no more
    than those that stay and one part are held.
    """
    candidates, rejection = request.candidates, request.rejection
    assert rejection is not None
    kept: Any = None
    for start in range(0, len(candidates), PART):
        part = request.at(candidates[start : start + PART], request.first + start)
        made = draw(part)
        scores = rejection.scores(made.images, part.values)
        found = (scores, part.groups, made.images, made.codes, part.values)
        kept = found if kept is None else jax.tree.map(lambda *x: np.concatenate(x), kept, found)
        places = best(kept[0], kept[1], request.groups)
        kept = jax.tree.map(lambda x, places=places: x[places], kept)
    scores, _, images, codes, values = kept
    labels = values if values.ndim == 1 else None
    return Pictures(images, codes, labels, request.rows, scores, len(candidates))
