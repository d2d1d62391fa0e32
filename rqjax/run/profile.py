"""A trace of some steps of a run, for people who look for lost time: `rqjax train ... --profile 100:110`."""

import pathlib
import re

import jax

from rqjax.errors import InputError

FOLDER = "profile"


def parse(words: str | None) -> tuple[int, int] | None:
    """(first, last) of `FIRST:LAST`; None for None. Raises InputError for anything else."""
    if words is None:
        return None
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", words)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--profile is {words!r}: expected FIRST:LAST, two steps from 1 on, as in 100:110")
    return int(match[1]), int(match[2])


class Profile:
    """The trace of steps `first` to `last`, in the folder `profile` of `folder`; nothing without `steps`.

    The first of them is rarely the run's first: that one is mostly compiled.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
        self._steps, self._folder, self._running = steps, folder / FOLDER, False

    def before(self, step: int) -> None:
        """Begins if `step` is the first, or the first that this start of the run sees of them."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, result: object) -> str | None:
        """Ends if `step` is the last, once `result` is there; the line that says where the trace is, else None."""
        if not self._running or self._steps is None or step < self._steps[1]:
            return None
        jax.block_until_ready(result)
        return self.close()

    def close(self) -> str | None:
        """Ends a trace that is under way."""
        if not self._running:
            return None
        self._running = False
        jax.profiler.stop_trace()
        traces = sorted(self._folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
        return f"profile: open {traces[-1]} at https://ui.perfetto.dev, or {self._folder} with TensorBoard and xprof"
