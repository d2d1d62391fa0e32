"""What a run leaves for people: pictures, and words on the console."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from rqjax.errors import InputError
from rqjax.run import previews, profile
from rqjax.run.log import Log
from rqjax.run.progress import Progress


def test_previews_are_rows_and_few(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "KEPT", 2)
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 16, 8, 3), np.uint8)
    for step in (10, 20, 30, 40):
        previews.write_preview(tmp_path, step, "samples", images)
    previews.write_preview(tmp_path, 20, "others", images)
    found = [(step, name) for step, name, _ in previews.found_previews(tmp_path)]
    assert found == [(10, "samples"), (20, "others"), (30, "samples"), (40, "samples")]
    with Image.open(tmp_path / "previews" / "step_000040_samples.png") as picture:
        assert picture.size == (8 * (3 * 8 + 2), 8 * 16)  # eight times as large, with a line between two images
        assert [picture.getpixel((x * 8 * 9, 0)) for x in range(3)] == [(k, k, k) for k in range(3)]


def test_classes_stand_above_their_images(tmp_path):
    """A name that is too long is cut off within its own column; foreign bytes move nothing."""
    images = np.zeros((3, 16, 16, 3), np.uint8)
    previews.write_preview(tmp_path, 1, "samples", images, ["i", "a name of many words", "\udc80\n"])
    with Image.open(tmp_path / "previews" / "step_000001_samples.png") as picture:
        above = np.asarray(picture)[: -4 * 16]
    assert above.shape == (18, 4 * (3 * 17 - 1), 3)
    ink = [np.flatnonzero((above[..., 0] < 255).any(0) & (np.arange(200) // 68 == k)) % 68 for k in range(3)]
    assert ink[0].max() < 8 < 40 < ink[1].max() < 66
    assert 0 < ink[2].max() < 66
    assert (above[:, 66:68] == 255).all()  # nothing between columns
    assert (above[:, 134:136] == 255).all()


def test_estimates_leave_out_the_compilation(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("rqjax.run.log.time.perf_counter", lambda: now[0])
    log = Log(tmp_path, start=0, steps=100, images_per_step=4)
    with log.compiling("the step"):
        now[0] += 60
    log.at(1)
    for step in range(2, 12):
        now[0] += 0.5
        log.at(step)
    with log.compiling("the previews"):
        now[0] += 30
    log.scalars(11, {"loss": 1.0})
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["compiling the step ...", "compiled the step in 1m00s"]
    assert lines[-1] == "step  11/100  loss 1  8 images/s  44.5s left"


def test_a_terminal_has_a_bar_and_lines_above_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = Progress(start=0, steps=4)
    with progress.compiling("the step"):
        pass
    progress.say("a line")
    for step in (1, 2, 3, 4):
        progress.at(step)
    progress.close()
    shown = terminal.getvalue()
    assert "compiling the step" in shown
    assert "a line\n" in shown
    assert "/4 [" in shown


@pytest.mark.parametrize("words", ["", "3", "5:3", "0:2", "a:b", "1:2:3", "-1:2"])
def test_a_profile_of_no_steps_is_refused(words):
    with pytest.raises(InputError, match=r"expected FIRST:LAST, two steps from 1 on"):
        profile.parse(words)


def test_a_profile_of_steps():
    assert (profile.parse("3:10"), profile.parse(None)) == ((3, 10), None)
