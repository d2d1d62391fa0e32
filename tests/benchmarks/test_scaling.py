import sys

import pytest

from benchmarks import scaling


def test_a_slope_is_the_exponent():
    sizes = [1, 2, 4, 8]
    assert scaling.slope(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    assert scaling.slope(sizes, [7.0] * 4) == pytest.approx(0.0, abs=1e-12)


def test_an_axis_of_small_steps_is_measured_by_turns(monkeypatch, tmp_path):
    small = scaling.Sizes(layers=1, width=64, batch=2, depth=2, codebook=32, side=2)
    monkeypatch.setattr(scaling, "Sizes", lambda: small)
    batches = (8, 32)  # with fewer images the weights alone decide about the memory of so small a step
    found = {"batch": scaling.measure("batch", batches, 2), "side": scaling.measure("side", (2, 4), 2)}
    assert found["side"]["sizes"] == [4, 16]
    assert scaling.slope(batches, found["batch"]["operations"]) == pytest.approx(1.0, abs=0.01)
    assert min(found["batch"]["seconds"]) > 0
    assert found["batch"]["bytes"][0] < found["batch"]["bytes"][1]
    scaling.plot(found | dict.fromkeys(("layers", "width", "depth", "codebook"), found["batch"]), tmp_path / "x.svg")
    assert "slope" in (tmp_path / "x.svg").read_text()
    assert scaling.shown(found).row_count == 2


def test_a_plot_of_another_ending_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--plot", "x.txt"])
    with pytest.raises(SystemExit):
        scaling.main()
    assert "expected a name that ends in .png or .svg" in capsys.readouterr().err
