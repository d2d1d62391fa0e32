"""The warnings of a run: alarms.jsonl in its directory, for the report."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from rqjax.errors import printable
from rqjax.run import hosts
from rqjax.run.signs import Sign
from rqjax.store.remote import Path, replace_file

FILE = "alarms.jsonl"
AGAIN = 100
"""Steps for which a cause is not named again."""
KEPT, LONGEST = 2000, 1000
"""Newest alarms that stay, and characters of one that are read."""


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A sentence of a step."""

    step: int
    cause: str
    said: str


class Alarms:
    """Lets each cause through at most once in AGAIN steps, also over restarts of the run."""

    def __init__(self, workdir: Path, start: int):
        self._path = workdir / FILE
        self._all = [alarm for alarm in read_alarms(workdir) if alarm.step <= start]
        self._last = {alarm.cause: alarm.step for alarm in self._all}

    def said(self, step: int, signs: Iterable[Sign]) -> list[str]:
        """A line for each sign that is due, which the first process writes down."""
        due = [sign for sign in signs if step - self._last.get(sign.cause, step - AGAIN) >= AGAIN]
        if due:
            self._last |= {sign.cause: step for sign in due}
            self._all = [*self._all, *(Alarm(step, sign.cause, sign.said) for sign in due)][-KEPT:]
            if hosts.primary():
                replace_file(self._path, "".join(json.dumps(dataclasses.asdict(x)) + "\n" for x in self._all))
        return [f"warning at step {step}: {sign.said}" for sign in due]


def read_alarms(workdir: Path) -> list[Alarm]:
    """The alarms of a run in order of step; lines that cannot be read are left out, whatever bytes they hold."""
    path, found = workdir / FILE, []
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines[-KEPT:]:
        try:
            value: Any = json.loads(line)
            step, *words = value["step"], value["cause"], value["said"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if type(step) is int and 0 <= step < 2**53 and all(isinstance(word, str) for word in words):
            found.append(Alarm(step, *(printable(word, LONGEST) for word in words)))
    return sorted(found, key=lambda alarm: alarm.step)
