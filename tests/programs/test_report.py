import json
import re

import numpy as np
import pytest
from PIL import Image

from rqjax.report import write_report
from rqjax.report.charts import groups
from rqjax.report.page import distinct_names
from rqjax.run.config import load_file, to_dict
from rqjax.run.previews import write_preview
from rqjax.store.remote import to_path


@pytest.fixture
def run(tmp_path):
    """A callable that makes a run directory with all that a report reads; its name is a test of escaping."""

    def make(*parts: str):
        folder = tmp_path.joinpath(*parts)
        folder.mkdir(parents=True)
        lines = [{"step": s, "loss_total": 1 / s, "usage_1": 0.5, "usage_2": 0.25, "broken": None} for s in (1, 2, 3)]
        lines.append({"step": 3, "eval_loss": 0.4, "eval_psnr": 20.0, "eval_psnr_1": 18.0, "eval_psnr_2": 20.0})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "ledger.json").write_text(json.dumps({"starts": 2, "compiling": 30.0, "steps": 90.0}))
        (folder / "config.json").write_text(json.dumps(to_dict(load_file("quickstart", "rqvae"))))
        for step in (1, 2, 3):
            write_preview(folder, step, "samples", np.full((2, 8, 8, 3), step, np.uint8))
        return folder

    return make


def test_page_needs_no_other_file_and_escapes_names(run, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    summary = {"seconds": {"total": 1.25}, "<script>": [0.5, 2]}
    pictures = {"cap<>": tmp_path / "a.png"}
    write_report(tmp_path / "r.html", "A & B", runs=[run("r<b>n")], pictures=pictures, summary=summary)
    page = (tmp_path / "r.html").read_text()
    # a picture, three previews and the charts of broken, loss, psnr and usage
    assert len(re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/]+=*"', page)) == 1 + 3 + 4
    assert not re.findall(r'(src|href)="(?!data:)', page)
    assert not {"<script>", "cap<>", "r<b>n"} & set(re.findall(r"<script>|cap<>|r<b>n", page))
    for words in ("A &amp; B", "1.25", "Where the time went: 2m00s over 2 starts", "75.0%", "samples, step 3"):
        assert words in page
    assert "stage.model.quantizer.depth" in page


def test_runs_of_one_name_are_two(run, tmp_path, command):
    a, b = run("one", "rqvae"), run("two", "rqvae")
    status, out, _ = command("report", a, b, f"--out={tmp_path / 'r.html'}")
    assert (status, out.strip()) == (0, str(tmp_path / "r.html"))
    assert re.findall("<h2>(.*?)</h2>", (tmp_path / "r.html").read_text()) == ["one/rqvae", "two/rqvae"]
    status, _, _ = command("report", f"--runs={a},{b}", f"--out={tmp_path / 'flags.html'}")
    assert (tmp_path / "flags.html").read_text() == (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("file", ["ledger.json", "config.json", "metrics.jsonl"])
def test_damage_leaves_out_what_is_damaged(run, tmp_path, file):
    place = run("a")
    text = (place / file).read_text()
    (place / file).write_text(text[:-20])
    write_report(tmp_path / "r.html", "t", runs=[place], pictures={}, summary={})
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png") == 3 + (2 + ("metrics" not in file)) + 1
    assert ("Where the time went" in page) == (file != "ledger.json")
    assert ("<summary>Configuration" in page) == (file != "config.json")


def test_runs_without_metrics_are_refused(tmp_path, command):
    status, _, err = command("report", tmp_path / "nothing")
    assert status == 2
    assert "nothing: no metrics.jsonl with lines in it" in err
    status, _, err = command("report")
    assert (status, "report needs run directories" in err) == (2, True)


def test_held_out_curves_stand_beside_those_of_training():
    names = (
        "loss_total",
        "eval_loss",
        "usage_1",
        "usage_2",
        "eval_usage_1",
        "eval_psnr",
        "eval_psnr_1",
        "coarse_fraction",
    )
    found = groups([{"step": 1, **dict.fromkeys(names, 1.0)}])
    shown = {title: [(curve.part, curve.held_out) for curve in curves] for title, curves in found.items()}
    assert shown == {
        "loss": [("", False), ("", True)],
        "psnr": [("1", True)],
        "usage": [("1", False), ("2", False), ("1", True)],
        "coarse fraction": [("", False)],
    }


def test_names_are_as_short_as_they_can_be():
    assert distinct_names([to_path(x) for x in ("a/x/r", "b/x/r", "s")]) == ["a/x/r", "b/x/r", "s"]
    assert distinct_names([to_path(x) for x in ("a/x", "b/y")]) == ["x", "y"]
