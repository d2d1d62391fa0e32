"""The programs in examples/ run, and show what they say."""

import pathlib
import runpy

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def run(name: str, **arguments):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**arguments)


def test_semantic_ids(capsys):
    figures = run("semantic_ids", steps=20)
    assert (np.diff(figures["error"]) < 0).all()
    assert figures["error"][-1] < 0.25
    assert (np.diff(figures["distinct"]) > 0).all()
    assert figures["distinct"][-1] > 0.5
    for neighbours, chance in zip(figures["neighbours"], figures["chance"], strict=True):
        assert neighbours > 5 * chance
    assert "9000 items" in capsys.readouterr().out


def test_signal_codes(capsys):
    snr = run("signal_codes", steps=10)
    assert (np.diff(snr) > 0.3).all()
    assert snr[0] > 6
    assert snr[-1] > 14
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_image_folder_rqvae(capsys):
    *by_codes, flat = run("image_folder_rqvae", steps=40).values()
    assert len(by_codes) == 4
    assert by_codes[3] < by_codes[0]
    assert by_codes[3] < 0.5 * flat
    assert "(8, 8, 4)" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 80
