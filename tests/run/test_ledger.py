import json

import jax
import pytest

from rqjax.run import ledger
from rqjax.run.ledger import FILE, NAMES, Ledger, Starving, duration, read_ledger, summary


@pytest.fixture
def clock(monkeypatch):
    """The time that ledgers see, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(ledger.time, "perf_counter", lambda: now[0])
    return now


def test_every_second_has_one_name_and_restarts_add_up(tmp_path, clock):
    first = Ledger(tmp_path)
    clock[0] += 5
    first.turn("steps")
    clock[0] += 10
    with first.doing("evaluating"):
        clock[0] += 2
    clock[0] += 1
    first.move(4.0, "steps", "waiting for data")
    first.write(now=True)
    second = Ledger(tmp_path)
    clock[0] += 3
    second.write(now=True)
    expected = {"starting": 8, "steps": 7, "waiting for data": 4, "evaluating": 2}
    assert read_ledger(tmp_path) == {"starts": 2, **dict.fromkeys(NAMES, 0), **expected}
    line = summary(read_ledger(tmp_path))
    parts = ("starting 8.0s (38%)", "steps 7.0s (33%)", "waiting for data 4.0s (19%)", "evaluating 2.0s (10%)")
    assert line == f"time 21.0s over 2 starts: {', '.join(parts)}"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"steps": "x"}', json.dumps({"steps": float("nan")})])
def test_a_damaged_ledger_begins_anew(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert Ledger(tmp_path).starts == 1


def test_writes_are_rare(tmp_path, clock):
    ours = Ledger(tmp_path)
    ours.write()
    clock[0] += 9
    ours.write()
    assert read_ledger(tmp_path)["starting"] == 0
    clock[0] += 2
    ours.write()
    assert read_ledger(tmp_path)["starting"] == 11


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    """Two that replaced one file at the same time took each other's draft away, and the run ended with it."""
    ours = Ledger(tmp_path)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    ours.write(now=True)
    assert not list(tmp_path.iterdir())


def test_durations():
    assert [duration(x) for x in (0.04, 59.4, 60.0, 3599.6, 7500.0)] == ["0.0s", "59.4s", "1m00s", "1h00m", "2h05m"]


def test_a_run_that_starves_says_so_once(tmp_path, clock):
    ours = Ledger(tmp_path)
    starving = Starving(ours)

    def after(steps: float, waiting: float) -> str | None:
        for name, seconds in (("steps", steps), ("waiting for data", waiting)):
            with ours.doing(name):
                clock[0] += seconds
        return starving.said()

    assert after(1, 60) is None  # the first batch has to be read, whatever comes then
    assert after(95, 5) is None
    assert after(3, 1) is None  # too short a time to judge by
    assert after(4, 1) is None
    line = after(3, 1)  # with the two before it
    assert line is not None
    assert line.startswith("23% of the time for steps goes to waiting for data: raise data.threads or data.workers")
    assert after(1, 60) is None


def test_time_that_is_no_steps_does_not_count_as_starving(tmp_path, clock):
    ours = Ledger(tmp_path)
    starving = Starving(ours)
    assert starving.said() is None
    for name, seconds in (("steps", 19), ("waiting for data", 1), ("previews", 500), ("saving", 500)):
        with ours.doing(name):
            clock[0] += seconds
    assert starving.said() is None
