"""What a run says: lines on the console, metrics.jsonl for programs, TensorBoard for people."""

import contextlib
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter, directory_check
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore  (made at import)

from rqjax.store.remote import Path, in_bucket, to_path

FILE = "metrics.jsonl"
COPY_SECONDS = 60
"""How often the files of a run in a bucket, where nothing can be added to a file, are copied there."""
FLUSH_SECONDS = 30
"""How often what TensorBoard shows is brought to disk."""


class Log:
    """Scalars and images of one run, written by the first host alone.

    Those of a run in a bucket are written here, and copied there once a minute and at the end.
    """

    def __init__(self, workdir: Path, *, start: int, steps: int, images_per_step: int):
        self._steps, self._images_per_step = steps, images_per_step
        self._primary = jax.process_index() == 0
        self._last = (start, time.perf_counter())
        if self._primary:
            self._copies = _Copies(workdir) if in_bucket(workdir) else None
            folder = self._copies.folder if self._copies else pathlib.Path(workdir)
            self._file = _continue(folder / FILE, start)
            self._board = _Board(folder / "tensorboard", start)

    def scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of `step`; reading them waits for the devices."""
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        since, then = self._last
        self._last = (step, time.perf_counter())
        seconds = (self._last[1] - then) / max(step - since, 1)
        values["images_per_second"] = self._images_per_step / seconds
        if not self._primary:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        print(json.dumps({"step": step, **finite}), file=self._file, flush=True)
        for name, value in values.items():
            self._board.add(summary.scalar(name, value), step)
        if self._copies and self._copies.due():
            self._board.flush()
            self._copies.write()
        print(_line(step, self._steps, values, seconds * (self._steps - step)), flush=True)

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes uint8 pictures [n h w c], each set as one row."""
        for name, rows in jax.device_get(dict(images)).items():
            if self._primary:
                row = np.concatenate(list(rows), axis=1)
                self._board.add(summary.image(name, row, dataformats="HWC"), step)

    def say(self, text: str) -> None:
        """Prints one line, on the first host."""
        if self._primary:
            print(text, flush=True)

    def close(self) -> None:
        """Flushes and closes the files: each, even if the disk does not take what is left of another."""
        if self._primary:
            with contextlib.ExitStack() as last_first:
                if self._copies:
                    last_first.callback(self._copies.close)
                last_first.callback(self._board.close)
                last_first.callback(self._file.close)


class _Board:
    """TensorBoard's file of one start of a run. tensorboardX's own writer has a thread: a full disk ends that alone,
    and the program would wait for it forever.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        directory_check(str(folder))
        self._writer = EventsWriter(str(folder / "events"))
        # what an earlier start wrote beyond step `start` is hidden
        self._write(Event(step=start + 1, file_version="brain.Event:2"))
        self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))
        self._flushed = time.monotonic()

    def add(self, found: Any, step: int) -> None:
        self._write(Event(step=step, summary=found))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


class _Copies:
    """A folder of this machine whose files are copied to one in a bucket; it starts with the metrics found there."""

    def __init__(self, target: Path):
        self._target = target
        self._place = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._place.name)
        self._sizes: dict[pathlib.Path, int] = {}
        self._last = time.monotonic()
        if (target / FILE).is_file():
            (self.folder / FILE).write_bytes((target / FILE).read_bytes())

    def due(self) -> bool:
        return time.monotonic() - self._last >= COPY_SECONDS

    def write(self) -> None:
        """Copies the files that grew or shrank."""
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if len(content) != self._sizes.get(path):
                (self._target / path.relative_to(self.folder).as_posix()).write_bytes(content)
                self._sizes[path] = len(content)
        self._last = time.monotonic()

    def close(self) -> None:
        if self.folder.exists():
            self.write()
            self._place.cleanup()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, in order of step."""
    path = to_path(workdir) / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _continue(path: pathlib.Path, start: int) -> Any:
    """Opens the file for appending, without the lines of steps that will be run again or were cut off."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            if json.loads(line)["step"] <= start:
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(line + "\n" for line in kept))
    fresh.replace(path)
    return path.open("a")


def _line(step: int, steps: int, values: Mapping[str, float], left: float) -> str:
    """One console line: losses first, nothing that has a number per depth."""
    names = sorted((n for n in values if not n[-1].isdigit()), key=lambda n: (not n.startswith("loss"), n))
    shown = [f"{name} {values[name]:.4g}" for name in names if name not in ("images_per_second", "skipped")][:6]
    if values.get("skipped"):
        shown.append(f"skipped {values['skipped']:.0f} steps")
    minutes, seconds = divmod(int(left), 60)
    speed = f"{values['images_per_second']:.0f} images/s"
    return f"step {step:>{len(str(steps))}}/{steps}  {'  '.join(shown)}  {speed}  {minutes}m{seconds:02d}s left"
