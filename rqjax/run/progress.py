"""The sight of a run that goes on: a bar on a terminal, lines elsewhere."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Generator

from tqdm import tqdm

from rqjax.run.ledger import duration

BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, {rate_fmt}]"


class Progress:
    """A bar over `steps`, of which `start` are finished, if standard output is a terminal; and lines above it."""

    def __init__(self, start: int, steps: int):
        self._bar = None
        if sys.stdout.isatty():
            self._bar = tqdm(
                total=steps,
                initial=start,
                file=sys.stdout,
                unit="step",
                dynamic_ncols=True,
                leave=False,
                bar_format=BAR,
            )

    def at(self, step: int) -> None:
        """Moves the bar to a finished step."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Prints one line."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            _tell(text)

    @contextlib.contextmanager
    def compiling(self, program: str) -> Generator[None]:
        """Says that `program` is being compiled, and afterwards how long that took; no estimate has its seconds."""
        since = time.perf_counter()
        if self._bar is None:
            self.say(f"compiling {program} ...")
        else:
            self._bar.set_description_str(f"compiling {program} ")
        yield
        self.say(f"compiled {program} in {duration(time.perf_counter() - since)}")
        if self._bar is not None:
            self._bar.set_description_str("")
            self._bar.unpause()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


def _tell(text: str) -> None:
    """Prints one line. A run outlives its terminal, and the reader of its pipe: it still has to save."""
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
