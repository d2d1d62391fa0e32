import json
import sys

import numpy as np
import pytest
from PIL import Image

from rqjax import __main__ as console
from rqjax.programs import quickstart
from tests.configs.tiny import get_config


def smaller(_, variant):
    config = get_config(variant)
    if variant.endswith("transformer"):
        config.stage.model.condition_dropout, config.stage.guidance = 0.1, 3.0  # guided, as the quickstart's are
    return config


@pytest.mark.parametrize("model", ["rq", "dq"])
def test_everything_is_there_after_a_tiny_run(model, tmp_path, monkeypatch, capsys):
    """The program itself on smaller runs: what it writes, not how good it is; launch/local.sh quickstart shows that."""
    monkeypatch.setattr(quickstart, "load_file", smaller)
    words = ["rqjax", "quickstart", f"--model={model}", f"--out={tmp_path}", "--count=3"]
    monkeypatch.setattr(sys, "argv", words)
    console.main()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["seconds"]) >= {*(f"train_{name}" for name in quickstart.RUNS[model]), "total"}
    accuracy = summary["class_accuracy_by_the_7_nearest_real_images"]
    for name, images in (("samples", 30), ("held_out_real_images", 1000)):
        assert images * accuracy[name] == pytest.approx(round(images * accuracy[name]), abs=1e-3)  # a share of them
    samples = np.load(tmp_path / "samples.npz")
    assert samples["arr_0"].shape == (30, 32, 32, 3)
    assert samples["arr_0"].dtype == np.uint8
    assert samples["label"].tolist() == np.repeat(np.arange(10), 3).tolist()
    assert Image.open(tmp_path / "samples.png").size == (2 * (3 * 33 - 1), 2 * (10 * 33 - 1))
    page = (tmp_path / "report.html").read_text()
    embedded = page.count('src="data:image/png;base64,')
    assert embedded == page.count("<img")
    assert embedded > 3  # the pictures beside curves of the runs
    if model == "rq":
        assert Image.open(tmp_path / "reconstructions.png").size == (2 * (10 * 33 - 1), 2 * (5 * 33 - 1))
        assert set(summary["code_usage"]) == {f"depth {d}" for d in (1, 2, 3, 4)}
        # the partial sums come ever closer in latent space; an untrained decoder need not show it in pixels
        assert summary["reconstruction_mean_squared_error"].keys() == summary["code_usage"].keys()
    else:
        assert Image.open(tmp_path / "grains.png").size == (2 * (10 * 33 - 1), 2 * (3 * 33 - 1))
        rates = {name: x["mean_codes_per_image"] for name, x in summary["rate_and_distortion"].items()}
        assert rates == {"dynamic": 40.0, "fixed_checkerboard_trained_for_it": 40.0}
    assert "look at" in capsys.readouterr().out
