"""The figures of a tokenizer that stay in its run directory, for `rqjax report`: evaluation.json."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rqjax.errors import printable
from rqjax.evaluation.curve import Point
from rqjax.interface import AT_FIXED_PLACES, BY_DEPTH, BY_DETAIL
from rqjax.store.remote import Path, replace_file

FILE = "evaluation.json"
MOST = 10_000
"""Points and books of codes that are read at most."""
LARGEST = 1e15
SERIES = ({BY_DEPTH}, {BY_DETAIL}, {BY_DETAIL, AT_FIXED_PLACES})
"""The series of points that stand together."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """The newest measured curve of a run, and how its codes are used."""

    step: int  # of the weights
    images: int
    source: str  # which images
    points: tuple[Point, ...]
    codes: Mapping[str, Mapping[str, float]]  # size, usage and perplexity of each depth or grain


def keep(
    place: Path,
    step: int,
    images: Mapping[str, object],
    points: Sequence[Point],
    codes: Mapping[str, Mapping[str, float | int]],
) -> None:
    """Writes the figures of `images`, as Images.about describes them, whole or not at all, over earlier ones.

    Raises OSError where nothing can be written.
    """
    rows = [dataclasses.asdict(point) for point in points]
    found = {"step": step, "images": images["count"], "source": _words(images), "rate_distortion": rows, "codes": codes}
    replace_file(place / FILE, json.dumps(found, indent=1) + "\n")


def _words(images: Mapping[str, object]) -> str:
    """Which images these are, by what a result says of them."""
    return f"{images['split']} of {images.get('path') or images['data']}"


def read(place: Path) -> Kept | None:
    """Those of a run directory; None where there are none, or whatever cannot be read."""
    try:
        found: Any = json.loads((place / FILE).read_text())
        points = tuple(_point(row) for row in found["rate_distortion"][:MOST])
        codes = {printable(name): _book(row) for name, row in list(found["codes"].items())[:MOST]}
        kept = Kept(int(found["step"]), int(found["images"]), printable(found["source"]), points, codes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return kept if {point.series for point in points} in SERIES else None


def _point(row: Mapping[str, Any]) -> Point:
    given = {field.name: row.get(field.name) for field in dataclasses.fields(Point) if field.name != "series"}
    optional = {field.name for field in dataclasses.fields(Point) if field.default is None}
    numbers = {name: None if x is None and name in optional else _number(x) for name, x in given.items()}
    return Point(series=str(row["series"]), **numbers)  # pyrefly: ignore  (those that are None may be)


def _book(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(row[name]) for name in ("size", "usage", "perplexity")}


def _number(value: Any) -> float:
    """A number of a size that can be drawn. Raises ValueError for another, and TypeError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not abs(value) < LARGEST:
        raise ValueError(f"{value} is no figure of images")
    return float(value)
