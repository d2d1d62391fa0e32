import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from rqjax.evaluation import kept
from rqjax.evaluation.curve import Point
from rqjax.report import rates, write_report
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


def points(series, *rows):
    return [Point(series=series, value=v, codes=1.0, bits=b, entropy_bits=b, mse=e, psnr=20.0) for v, b, e in rows]


IMAGES = {"split": "test", "data": "folder", "path": "a <b> \udc80", "count": 500}
CODES = {"1": {"size": 64, "usage": 0.75, "perplexity": 30.0, "entropy": 5.0}}


def test_rate_and_distortion_of_several_runs(run, tmp_path, command):
    a, b = run("one", "rq<v>ae"), run("two", "dq")
    kept.keep(a, 3, IMAGES, points("by depth", (1.0, 10.0, 0.2), (2.0, 20.0, 0.1)), CODES)
    both = points("by detail", (0.0, 10.0, 0.3), (1.0, 30.0, 0.1)) + points("at fixed places", (0.5, 20.0, 0.15))
    kept.keep(b, 3, IMAGES, both, {})
    status, _, _ = command("report", a, b, f"--out={tmp_path / 'r.html'}")
    assert status == 0
    page = (tmp_path / "r.html").read_text()
    for words in ("rq&lt;v&gt;ae", "a &lt;b&gt; \\udc80", "The error falls with each depth.", "16 of 64", "25.0%"):
        assert words in page
    assert "leave no less error than the same tokenizer&#x27;s fixed places at the shares 0.5" in page
    assert "At equal bits, from 10 to 20, rq&lt;v&gt;ae leaves less error than dq." in page
    assert "not the same" not in page
    assert "<v>" not in page
    # nothing is fetched: pictures and the table for a spreadsheet are in the page
    assert not re.findall(r'(src|href)="(?!data:(image/png|text/csv);base64,)', page)
    lines = (tmp_path / "r_rate_distortion.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["rq<v>ae", "by depth", "1.0"],
        ["rq<v>ae", "by depth", "2.0"],
        ["dq", "by detail", "0.0"],
        ["dq", "by detail", "1.0"],
        ["dq", "at fixed places", "0.5"],
    ]
    assert base64.b64encode("\n".join(lines[:2]).encode())[:40].decode() in page
    status, _, err = command("report", a, f"--out={tmp_path / 'r.html'}")
    assert (status, "exists already" in err) == (2, True)


def test_without_a_measurement_the_share_of_unused_codes_is_that_of_the_newest_validation(run, tmp_path):
    place = run("a")
    with (place / "metrics.jsonl").open("a") as file:
        for step, usage in ((2, 0.1), (3, 0.6)):
            print(json.dumps({"step": step, "eval_usage_1": usage, "restarted_1": 0.125}), file=file)
    write_report(tmp_path / "r.html", "t", runs=[place], pictures={}, summary={})
    page = (tmp_path / "r.html").read_text()
    assert re.search(r"<td>1</td><td></td><td>40\.0%</td><td></td><td>12\.50%</td>", page)
    assert "Rate and distortion" not in page
    assert not (tmp_path / "r_rate_distortion.csv").exists()


def test_warnings_stand_in_the_page_once_for_each_cause(run, tmp_path):
    place = run("a")
    lines = [{"step": step, "cause": "restarts", "said": f"at <b> {step}"} for step in (100, 200, 1300)]
    text = "\n".join(
        map(json.dumps, [*lines, {"step": 7, "cause": "data", "said": "wait"}, {"step": "x"}, [], 10**400])
    )
    (place / "alarms.jsonl").write_bytes(text.encode() + b"\n\xff\x00\n" + b"[" * 100_000)
    write_report(tmp_path / "r.html", "t", runs=[place], pictures={}, summary={})
    page = (tmp_path / "r.html").read_text()
    assert "<li>Step 1,300, 3 times from step 100 on: at &lt;b&gt; 1300</li>" in page
    assert "<li>Step 7: wait</li>" in page
    assert page.count("<li>") == 2


def damaged(found):
    """Ways in which evaluation.json may be wrong."""
    yield "[]"
    yield "9" * 5000
    yield "[" * 100_000
    for name in found:
        for value in (None, "x", -1, [[]], {"a": 1}, float("nan"), 10**400):
            yield json.dumps({**found, name: value})
    row = found["rate_distortion"][0]
    for name in row:
        for value in (None, "\ud800", True, 1e308, float("inf"), [1]):
            yield json.dumps({**found, "rate_distortion": [{**row, name: value}]})
    for value in (None, 1, {}, {"size": 1e300, "usage": 2, "perplexity": 0}):
        yield json.dumps({**found, "codes": {"\ud800<i>": value}})


def test_no_content_of_the_measurement_stops_a_report(run, tmp_path):
    place = run("a")
    kept.keep(place, 3, IMAGES, points("at fixed places", (1.0, 10.0, 0.2)), CODES)
    assert kept.read(place) is None  # these have nothing to be compared with
    kept.keep(place, 3, IMAGES, points("by depth", (1.0, 10.0, 0.2)), CODES)
    read = kept.read(place)
    assert read.points == tuple(points("by depth", (1.0, 10.0, 0.2)))
    assert read.codes == {"1": {"size": 64, "usage": 0.75, "perplexity": 30.0}}
    whole = json.loads((place / kept.FILE).read_text())
    drawn = 0
    for text in [*damaged(whole), *(json.dumps(whole)[:cut] for cut in (0, 1, 40, 200))]:
        (place / kept.FILE).write_text(text)
        if found := kept.read(place):
            drawn += 1
            assert "<i>" not in rates.section({"a": found}) + rates.unused(found, [])
    (place / kept.FILE).write_bytes(b"\xff\xfe\x00")
    assert kept.read(place) is None
    assert drawn > 3
