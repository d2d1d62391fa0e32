"""Where a run's time went, in seconds, summed over its starts: ledger.json in the run directory."""

import contextlib
import json
import math
import time
from collections.abc import Generator, Mapping

from rqjax.run import hosts
from rqjax.store.remote import Path, replace_file

FILE = "ledger.json"
Entries = Mapping[str, int | float]
"""`starts`, their number, and seconds by name."""
NAMES = ("starting", "compiling", "steps", "waiting for data", "saving", "previews", "evaluating")
"""The uses of a run's time: at each moment it is one of these."""
WRITE_SECONDS = 10
STARVING, LEAST_SECONDS = 0.1, 10.0
"""The share of the time for steps from which waiting for data is worth a line, and the time that is judged at least."""


class Ledger:
    """A clock that always runs for one of NAMES, at first for "starting"; it goes on from what earlier starts wrote."""

    def __init__(self, workdir: Path):
        self._path = workdir / FILE
        before = read_ledger(workdir)
        self.starts = int(before.get("starts", 0)) + 1
        self._seconds = {name: float(before.get(name, 0.0)) for name in NAMES}
        self._name, self._since = "starting", time.perf_counter()
        self._written = -math.inf

    def turn(self, name: str) -> float:
        """From now on time goes to `name`; the seconds that went to the one before, since the last turn."""
        now = time.perf_counter()
        spent, self._since = now - self._since, now
        self._seconds[self._name] += spent
        self._name = name
        return spent

    def move(self, seconds: float, source: str, target: str) -> None:
        """Books `seconds` that one name has to another one."""
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    @contextlib.contextmanager
    def doing(self, name: str) -> Generator[None]:
        """Time in the block goes to `name`."""
        before = self._name
        self.turn(name)
        try:
            yield
        finally:
            self.turn(before)

    @property
    def entries(self) -> Entries:
        """The sums up to now."""
        self.turn(self._name)
        return {"starts": self.starts, **{name: round(value, 3) for name, value in self._seconds.items()}}

    def write(self, *, now: bool = False) -> None:
        """The first process brings it to disk, whole or not at all; unless `now`, at most every WRITE_SECONDS."""
        if not hosts.primary() or (not now and time.perf_counter() - self._written < WRITE_SECONDS):
            return
        replace_file(self._path, json.dumps(self.entries, indent=1))
        self._written = time.perf_counter()


class Starving:
    """Whether steps wait for data: asked now and then, it says so once."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._before: Entries | None = None
        self._said = False

    def said(self) -> str | None:
        """A line if STARVING or more of the time for steps since an earlier question went to waiting for data.

        That time is at least LEAST_SECONDS. The first question asks nothing: until then threads have started, and the
        step was compiled.
        """
        now, before = self._ledger.entries, self._before or self._ledger.entries
        waited, steps = (float(now[name] - before[name]) for name in ("waiting for data", "steps"))
        if self._before is None or waited + steps >= LEAST_SECONDS:
            self._before = now
        if self._said or waited + steps < LEAST_SECONDS or waited < STARVING * (waited + steps):
            return None
        self._said = True
        return (
            f"{waited / (waited + steps):.0%} of the time for steps goes to waiting for data: raise data.threads or"
            " data.workers, or make the set ready before (launch/prepare.py, rqjax encode)"
        )


def read_ledger(workdir: Path) -> Entries:
    """`starts`, and seconds by name; empty where there is no ledger, or none that can be read."""
    try:
        found = json.loads((workdir / FILE).read_text())
        return {n: float(found[n]) for n in ("starts", *NAMES) if n in found and math.isfinite(float(found[n]))}
    except (OSError, ValueError, TypeError):
        return {}


def summary(ledger: Entries) -> str:
    """One line: all seconds, then the share of each name that took any."""
    seconds = {name: ledger.get(name, 0.0) for name in NAMES}
    whole = sum(seconds.values())
    parts = [f"{name} {duration(x)} ({x / whole:.0%})" for name, x in seconds.items() if x >= 0.005 * whole and x > 0]
    starts = int(ledger.get("starts", 1))
    return f"time {duration(whole)}{f' over {starts} starts' if starts > 1 else ''}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """As in 4.2s, 3m08s, 2h05m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
