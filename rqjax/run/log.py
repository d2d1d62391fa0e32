"""The log of a run: lines on the console, metrics.jsonl for programs, TensorBoard's file for people."""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from typing import SupportsFloat, TextIO

import jax
import numpy as np
from jaxtyping import Array, UInt8

from rqjax.errors import printable
from rqjax.run.copies import Copies
from rqjax.run.ledger import duration
from rqjax.run.previews import write_preview
from rqjax.run.progress import Progress
from rqjax.run.tensorboard import Board
from rqjax.store.remote import Path, in_bucket, replace_file, to_path

FILE = "metrics.jsonl"
Pictures = UInt8[Array, "n h w c"] | UInt8[np.ndarray, "n h w c"]
Line = dict[str, int | float | None]
"""The scalars of one step by name, `step` among them; None for those that are not finite."""


class Log:
    """Scalars and pictures of one run, written by the first host alone; for a run in a bucket through run.copies."""

    def __init__(self, workdir: Path, *, start: int, steps: int, images_per_step: int):
        self._workdir, self._steps, self._images_per_step = workdir, steps, images_per_step
        self._primary = jax.process_index() == 0
        self._moving = False
        self._last = (start, time.perf_counter())
        self.folder = pathlib.Path(os.devnull)  # of files that grow; the first host's alone
        if self._primary:
            self._copies = Copies(workdir, FILE) if in_bucket(workdir) else None
            self.folder = self._copies.folder if self._copies else pathlib.Path(workdir)
            self._file = _continue(self.folder / FILE, start)
            self._board = Board(self.folder / "tensorboard", start)
            self._progress = Progress(start, steps)

    @contextlib.contextmanager
    def compiling(self, program: str) -> Generator[None]:
        """Says that a program is compiled while the block does it; speeds and estimates leave its seconds out."""
        since = time.perf_counter()
        with self._progress.compiling(program) if self._primary else contextlib.nullcontext():
            yield
        step, then = self._last
        self._last = (step, then + time.perf_counter() - since)

    def at(self, step: int) -> None:
        """Says that a step was started. Speeds begin behind the first one, which waited for its compilation."""
        if not self._moving:
            self._moving, self._last = True, (step, time.perf_counter())
        if self._primary:
            self._progress.at(step)

    def scalars(self, step: int, metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
        """Writes the metrics of `step`, and gives them as numbers; reading them waits for the devices."""
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        since, then = self._last
        left = None
        if step > since:
            self._last = (step, time.perf_counter())
            seconds = (self._last[1] - then) / (step - since)
            values["images_per_second"] = self._images_per_step / seconds
            left = seconds * (self._steps - step)
        if self._primary:
            self._write(step, values)
            self._progress.say(_console_line(step, self._steps, values, left))
        return values

    def figures(self, step: int, values: Mapping[str, float], remark: str = "") -> None:
        """Writes the figures of `step` on held-out images."""
        if self._primary:
            self._write(step, values)
            shown = [f"{name} {value:.4g}" for name, value in values.items() if not name[-1].isdigit()][:6]
            self._progress.say(
                "  ".join([f"step {step:>{len(str(self._steps))}}/{self._steps}", *shown, remark]).rstrip()
            )

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        print(json.dumps({"step": step, **finite}), file=self._file, flush=True)
        for name, value in values.items():
            self._board.scalar(name, value, step)
        if self._copies and self._copies.due():
            self._board.flush()
            self._copies.write()

    def images(self, step: int, images: Mapping[str, Pictures], classes: Sequence[str] = ()) -> None:
        """Writes pictures, those of one name in a row: for TensorBoard, and as files, see run.previews.

        With `classes`, the names of the pictures' classes in their order, which stand in the files.
        """
        for name, pictures in jax.device_get(dict(images)).items():
            if self._primary:
                self._board.image(name, np.concatenate(list(pictures), axis=1), step)
                write_preview(self._workdir, step, name, pictures, classes[: len(pictures)])

    def say(self, *lines: str) -> None:
        """Prints lines, on the first host: each stays one, whatever foreign names stand in it."""
        for line in lines if self._primary else ():
            self._progress.say(printable(line))

    def close(self) -> None:
        """Flushes and closes the files: each, even if the disk does not take the rest of another."""
        if self._primary:
            with contextlib.ExitStack() as last_first:
                if self._copies:
                    last_first.callback(self._copies.close)
                last_first.callback(self._board.close)
                last_first.callback(self._file.close)
                last_first.callback(self._progress.close)


def read_metrics(workdir: str | os.PathLike[str]) -> list[Line]:
    """The lines of a run's metrics.jsonl that can be read, in order of step; none if there is no such file.

    A run is not stopped by its curve: lines that were cut off or damaged are left out, whatever bytes they hold.
    """
    return sorted(_readable(to_path(workdir) / FILE), key=lambda line: line["step"] or 0)


def _readable(path: Path) -> list[Line]:
    """The lines of a file of metrics that are what `Log.scalars` writes."""
    lines = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            values = json.loads(line, parse_constant=lambda word: None)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and type(values.get("step")) is int and all(map(_is_metric, values.values())):
            lines.append(values)
    return lines


def _is_metric(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and abs(value) < sys.float_info.max)


def _continue(path: pathlib.Path, start: int) -> TextIO:
    """Opens the file for appending, without the lines of steps that will be run again or cannot be read."""
    kept = [line for line in _readable(path) if (line["step"] or 0) <= start]
    replace_file(path, "".join(json.dumps(line) + "\n" for line in kept))
    return path.open("a")


def _console_line(step: int, steps: int, values: Mapping[str, float], left: float | None) -> str:
    """One console line: losses first, no metric that has a number for each depth; `left` seconds to go, if known."""
    names = sorted((n for n in values if not n[-1].isdigit()), key=lambda n: (not n.startswith("loss"), n))
    shown = [f"{name} {values[name]:.4g}" for name in names if name not in ("images_per_second", "skipped")][:6]
    if values.get("skipped"):
        shown.append(f"skipped {values['skipped']:.0f} steps")
    if left is not None:
        shown.append(f"{values['images_per_second']:.0f} images/s  {duration(left)} left")
    return f"step {step:>{len(str(steps))}}/{steps}  {'  '.join(shown)}"
