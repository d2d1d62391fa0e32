import json
import sys

import numpy as np
import pytest
from PIL import Image

from rqjax import __main__ as console
from rqjax.data.images import to_float
from rqjax.quantize.entropy import patch_entropy, read_thresholds, thresholds


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["rqjax", "thresholds", *words])
    console.main()


def test_table_of_a_folder(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    images[:, :8] = 128  # the upper half says nothing
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:02}.png")
    out = tmp_path / "new" / "table.json"
    run(monkeypatch, f"--images={tmp_path / 'images'}", "--split=all", "--size=16", "--patch=8", f"--out={out}")
    table = read_thresholds(out, "-1_1", 8)
    assert table == pytest.approx(thresholds(np.asarray(patch_entropy(to_float(images), 8, "-1_1"))), rel=1e-5)
    assert json.loads(out.read_text())["bins"] == "-1_1"
    said = capsys.readouterr().out
    assert "280 patches of 8x8" in said
    assert "share of fine regions 0.50" in said
    with pytest.raises(ValueError, match="the model uses bins 0_1"):
        read_thresholds(out, "0_1", 8)


def test_refusal(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--size=30", "--patch=8")
    assert "--patch 8 does not divide --size 30" in capsys.readouterr().err
