"""The time of rqjax beside that of the official PyTorch code: same weights, same threads, by turns.

    PYTHONPATH=. .venv/bin/python benchmarks/against_pytorch.py --rq_checkout A --dq_checkout B --python PYTHON
        [--quick] [--rows WORD ...] [--turns 3] [--threads 2]

A and B are checkouts of the official repositories, PYTHON one that has torch, omegaconf and what else these import.
Each row has a process for either side. Both make their model with the weights of the golden rule, and must agree before
they are timed. Then they work by turns, one at a time, after a run to warm up. Times are medians; on a machine that is
not idle the fastest turns say more. --quick has smaller networks and fewer turns. Prints a table; ends with status 1 if
a row disagrees, and asserts no time.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.against.rows import CLOSE, Row, disagreements, rq_rows
from rqjax.errors import InputError, RunError

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENOUGH = 10.0
"""Seconds of both sides after which there are no more turns than asked for; short jobs have up to MOST."""
MOST = 9


class Side:
    """A process of one side."""

    def __init__(self, name: str, words: Sequence[str]):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # or there would be nothing to compile
        started = [str(time.time())]
        self.process = subprocess.Popen(
            [words[0], "-m", words[1], *started, *words[2:]],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises RunError if the process has ended instead."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines() or ["nothing"]
        raise RunError(f"{self.name} ended with status {self.process.returncode}; its last words: {said[-1]}")

    def tell(self, do: str, **more: Any) -> dict[str, Any]:
        """The answer to a request."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            print(json.dumps({"do": do, **more}), file=self.process.stdin, flush=True)
        return self.answer()


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
        return all(value <= CLOSE for value in self.apart.values())


def measure(row: Row, official: Side, ours: Side, turns: int) -> Result:
    """Checks both sides against each other, then times them by turns."""
    sides = (ours, official)
    starts = [side.answer()["seconds"] for side in sides]
    warm, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        for k, side in enumerate(sides):
            side.tell("make", row=row.job)
            warm.append(side.tell("warm"))
            # what one side draws at random the other takes from its check
            side.tell("check", path=f"{folder}/{k}.npz", given=f"{folder}/0.npz" if k else None)
            with np.load(f"{folder}/{k}.npz") as arrays:
                found.append(dict(arrays))
    for k, side in enumerate(sides):
        if not warm[k]["ran"]:
            side.tell("run")
        side.tell("forget")
    times, peaks = by_turns(sides, turns)
    timed = []
    for k in range(2):
        seconds = statistics.median(times[k])
        # a job that compiles by a run has its time too
        first = warm[k]["seconds"] - (seconds if warm[k]["ran"] else 0.0)
        timed.append(Timed(starts[k], max(first, 0.0), seconds, min(times[k]), peaks[k]))
    return Result(row, timed[1], timed[0], disagreements(*found))


def by_turns(sides: Sequence[Side], turns: int) -> tuple[list[list[float]], list[float]]:
    """The seconds of each turn of each side, and the most memory that it held."""
    times: list[list[float]] = [[] for _ in sides]
    peaks = [0.0 for _ in sides]
    while len(times[0]) < turns or (sum(map(sum, times)) < ENOUGH and len(times[0]) < MOST):
        for k, side in enumerate(sides):
            said = side.tell("run")
            times[k].append(said["seconds"])
            peaks[k] = max(peaks[k], said["peak"])
    return times, peaks


def table(results: Sequence[Result]) -> Table:
    """A line for each row."""
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
    found = Table(*columns, caption="peak: official, ours; apart: the largest difference, see rows.py; ! beyond 1e-3")
    for result in results:
        official, ours = result.official, result.ours
        apart = max(result.apart.values())
        found.add_row(
            result.row.name,
            f"{official.seconds:.2f}",
            f"{ours.seconds:.2f}",
            f"{result.ratio:.2f}",
            f"{result.fastest:.2f}",
            f"{result.row.floor:g}" + ("" if result.ratio >= result.row.floor else " missed"),
            f"{ours.first:.1f}",
            f"{official.peak:.1f}, {ours.peak:.1f}",
            f"{apart:.0e}" + ("" if result.agrees else " !"),
        )
    return found


def starts(results: Sequence[Result]) -> str:
    """How long either side takes to be there."""
    official, ours = (statistics.median(getattr(x, side).start for x in results) for side in ("official", "ours"))
    return f"Until its libraries are loaded: PyTorch {official:.1f} s, ours {ours:.1f} s (medians over rows)."


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The flags. Raises InputError for paths that are no checkouts, or no Python with PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rq_checkout", required=True, type=pathlib.Path, help="a checkout of the official RQ code")
    parser.add_argument("--dq_checkout", required=True, type=pathlib.Path, help="a checkout of the official DQ code")
    parser.add_argument("--python", required=True, help="a Python that has torch and what the checkouts import")
    parser.add_argument("--quick", action="store_true", help="smaller networks, fewer turns")
    parser.add_argument("--rows", nargs="*", default=[""], help="rows whose names have one of these words (all)")
    parser.add_argument("--turns", type=int, default=3, help="at least so many timed runs of a side (3)")
    parser.add_argument("--threads", type=int, default=2, help="processor cores that each side may use (2)")
    given = parser.parse_args(words)
    for name in ("turns", "threads"):
        if getattr(given, name) < 1:
            raise InputError(f"--{name} is {getattr(given, name)}: expected at least 1")
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("this system has no sched_setaffinity, which makes the threads equal: use Linux")
    if len(cores := os.sched_getaffinity(0)) < given.threads:
        raise InputError(f"--threads is {given.threads}: this process may use {len(cores)} cores")
    for name, inside in (("rq_checkout", "rqvae/models"), ("dq_checkout", "models/stage2_dynamic")):
        if not (getattr(given, name) / inside).is_dir():
            raise InputError(f"--{name}={getattr(given, name)} has no {inside}: give a checkout of the official code")
    try:
        subprocess.run([given.python, "-c", "import torch, omegaconf"], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["nothing"]
        raise InputError(f"--python={given.python} has no PyTorch or no omegaconf: {said[-1]}") from None
    except OSError as error:
        raise InputError(
            f"--python={given.python} does not run ({error.strerror}): give the path of a Python"
        ) from None
    return given


def main(words: Sequence[str]) -> int:
    given = arguments(words)
    rows = [
        row
        for row in rq_rows(given.rq_checkout, given.quick)
        if any(word.lower() in row.name.lower() for word in given.rows)
    ]
    if not rows:
        raise InputError(
            f"no row has one of the words {', '.join(given.rows)} in its name: see the table without --rows"
        )
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    checkouts = [str(path.resolve()) for path in (given.rq_checkout, given.dq_checkout)]
    results, console = [], Console()
    for row in rows:
        theirs = Side("PyTorch", [given.python, "benchmarks.against.official", *checkouts])
        with theirs, Side("rqjax", [sys.executable, "benchmarks.against.ours"]) as ours:
            results.append(measure(row, theirs, ours, 2 if given.quick else given.turns))
        result = results[-1]
        apart = ", ".join(f"{name} {value:.0e}" for name, value in result.apart.items())
        console.print(f"{row.name}: {result.ratio:.2f} ({apart})")
    console.print(table(results))
    console.print(starts(results))
    return 0 if all(result.agrees for result in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, RunError) as error:
        sys.exit(str(error))
