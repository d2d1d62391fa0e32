"""The time of rqjax beside that of the official PyTorch code: same weights, same threads, by turns.

    PYTHONPATH=. .venv/bin/python benchmarks/against_pytorch.py --rq_checkout A --dq_checkout B --python PYTHON
        [--quick] [--rows WORD ...] [--turns 3] [--threads 2]

A and B are checkouts of the official repositories, PYTHON one that has torch, omegaconf, einops and what else these
import. Each row has a process for either side. Both make their model with the weights of the golden rule, and must
agree before they are timed. Then they work by turns, one at a time, after a run to warm up. Times are medians; on a
machine that is not idle the fastest turns say more. --quick has smaller networks and fewer turns. The official
DQ-Transformer has no caches: its times of sampling are added up from those of six tokens. Prints a table; ends with
status 1 if a row disagrees, and asserts no time.
"""

import argparse
import contextlib
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

from benchmarks.against.results import Result, Timed, disagreements, starts, table
from benchmarks.against.rows import Row, dq_rows, rq_rows
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
        for row in [*rq_rows(given.rq_checkout, given.quick), *dq_rows(given.dq_checkout, given.quick)]
        if any(word.lower() in row.name.lower() for word in given.rows)
    ]
    if not rows:
        raise InputError(
            f"no row has one of the words {', '.join(given.rows)} in its name: see the table without --rows"
        )
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    checkouts = [str(path.resolve()) for path in (given.rq_checkout, given.dq_checkout)]
    results, console = [], Console(width=None if sys.stdout.isatty() else 160)
    for row in rows:
        theirs = Side("PyTorch", [given.python, "benchmarks.against.official", *checkouts])
        with theirs, Side("rqjax", [sys.executable, "benchmarks.against.ours"]) as ours:
            results.append(measure(row, theirs, ours, 2 if given.quick else given.turns))
        result = results[-1]
        apart = ", ".join(f"{name} {value:.0e}" for name, value in result.apart.items())
        console.print(f"{row.name}: {result.ratio:.2f} ({apart})")
    console.print(table(results, floors=not given.quick))
    console.print(starts(results))
    return 0 if all(result.agrees for result in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, RunError) as error:
        sys.exit(str(error))
