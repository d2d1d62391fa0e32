"""Two sides' results of a workload: how far apart they are, how long they took, and the table of all."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from benchmarks.against.rows import CLOSE, ROUNDED, Row

Arrays = Mapping[str, np.ndarray]


def disagreements(ours: Arrays, official: Arrays) -> dict[str, float]:
    """How far apart two sides are, by name: the share of integers that differ, or the distance over the norm.

    Names that begin with `given` are not compared: one side has them for the other.
    """
    found = {}
    for name in sorted(name for name in {*ours, *official} if not name.startswith("given")):
        if name not in ours or name not in official or ours[name].shape != official[name].shape:
            found[name] = float("inf")
        elif np.issubdtype(official[name].dtype, np.integer):
            found[name] = float(np.mean(ours[name] != official[name]))
        else:
            a, b = (np.asarray(x[name], np.float64) for x in (ours, official))
            found[name] = float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
    return found


@dataclasses.dataclass(frozen=True)
class Timed:
    """A side's figures of one row."""

    start: float  # seconds until its libraries were loaded
    first: float  # seconds of compiling: what a first run takes more than later ones
    seconds: float  # median of the turns
    fastest: float  # of the turns, in seconds
    peak: float  # GiB that the process held at most, in these turns


@dataclasses.dataclass(frozen=True)
class Result:
    """Both sides' figures of one row, and how far apart they are."""

    row: Row
    official: Timed
    ours: Timed
    apart: dict[str, float]

    @property
    def ratio(self) -> float:
        return self.official.seconds / self.ours.seconds

    @property
    def fastest(self) -> float:
        """The ratio of the fastest turns, which other programs on the machine disturb least."""
        return self.official.fastest / self.ours.fastest

    @property
    def agrees(self) -> bool:
        return all(value <= self.row.close for value in self.apart.values())


def table(results: Sequence[Result], floors: bool) -> Table:
    """A line for each row; with the floors, which are meant for full sizes."""
    columns = (
        "workload",
        "official s",
        "ours s",
        "official / ours",
        "of the fastest",
        "floor",
        "compile s",
        "peak GiB",
        "apart",
    )
    far = f"! beyond {CLOSE:g}, with weights in fewer bits beyond {ROUNDED:g} of the codes"
    found = Table(*columns, caption=f"peak: official, ours; apart: the largest difference; {far}")
    for result in results:
        official, ours = result.official, result.ours
        apart = max(result.apart.values())
        found.add_row(
            result.row.name,
            f"{official.seconds:.2f}",
            f"{ours.seconds:.2f}",
            f"{result.ratio:.2f}",
            f"{result.fastest:.2f}",
            f"{result.row.floor:g}" + ("" if result.ratio >= result.row.floor else " missed") if floors else "",
            f"{ours.first:.1f}",
            f"{official.peak:.1f}, {ours.peak:.1f}",
            f"{apart:.0e}" + ("" if result.agrees else " !"),
        )
    return found


def starts(results: Sequence[Result]) -> str:
    """How long either side takes to be there."""
    official, ours = (statistics.median(getattr(x, side).start for x in results) for side in ("official", "ours"))
    return f"Until its libraries are loaded: PyTorch {official:.1f} s, ours {ours:.1f} s (medians over rows)."
