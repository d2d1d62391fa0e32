"""The programs as a person calls them: what they write, and one line for what they refuse."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from rqjax.errors import Interrupted

TINY = str(pathlib.Path(__file__).parents[1] / "configs" / "tiny.py")


def test_train_writes_a_run_directory(command, tmp_path):
    status, out, _ = command("train", f"--config={TINY}:classifier", f"--workdir={tmp_path / 'a'}", "--config.steps=2")
    assert status == 0
    assert "step 2/2" in out
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "checkpoints",
        "config.json",
        "data.json",
        "ledger.json",
        "metrics.jsonl",
        "parameters.txt",
        "tensorboard",
    }


def test_sample_needs_the_prior_alone(command, tiny_run, tmp_path):
    """The tokenizer that it was trained on is gone."""
    words = ("sample", f"--prior={tiny_run('rqtransformer')}", "--label=8", "--count=3", "--top_k=16,8,8,4", "--seed=1")
    status, out, _ = command(*words, "--top_p=0.95", f"--out={tmp_path / 'bags.png'}")
    assert status == 0
    assert "3 images of 32x32" in out
    assert Image.open(tmp_path / "bags.png").size[0] > 64
    for name in ("a", "b"):
        assert command(*words, "--batch=2", f"--out={tmp_path / name}.npz")[0] == 0
    a, b = (np.load(tmp_path / f"{name}.npz") for name in ("a", "b"))
    assert a["arr_0"].shape == (3, 32, 32, 3)
    assert a["arr_0"].dtype == np.uint8
    assert a["label"].tolist() == [8, 8, 8]
    assert np.array_equal(a["arr_0"], b["arr_0"])


@pytest.mark.parametrize("run", ["rqvae", "rqtransformer"])
def test_reconstruct_from_either_run(command, tiny_run, tmp_path, run):
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    out = tmp_path / "recon.png"
    status, said, _ = command("reconstruct", f"--tokenizer={tiny_run(run)}", f"--images={tmp_path}", f"--out={out}")
    assert status == 0
    assert said.count("PSNR") == 4
    assert Image.open(out).size == (2 * (3 * 33 - 1), 2 * (5 * 33 - 1))


REFUSED = {
    "unknown verb": (["paint"], "unknown verb 'paint': expected one of"),
    "no config": (["train", "--workdir=x"], "train needs --config"),
    "unknown variant": (["train", f"--config={TINY}:vqvae", "--workdir=x"], "vqvae"),
    "bad grid": (["train", f"--config={TINY}", "--workdir=x", "--config.stage.model.code_shape=3,3"], "3"),
    "no steps": (
        ["train", f"--config={TINY}", "--workdir=x", "--config.steps=0"],
        "config.steps is 0: expected whole numbers",
    ),
    "stray word": (["sample", "runs/a"], "unexpected words"),
    "no prior": (["sample"], "sample needs --prior"),
    "not a run": (["sample", "--prior=nowhere"], "nowhere holds no checkpoint"),
    "small images": (
        ["train", f"--config={TINY}", "--workdir=x", "--config.data.resize=0"],
        "is 28x28, smaller than the 32x32 crop: set data.resize=32",
    ),
    "batch": (
        ["train", f"--config={TINY}", "--workdir=x", "--config.data.batch=12"],
        "no mesh of 8 devices splits 12 rows: choose data.batch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_meets_one_line(command, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, expected = REFUSED[case]
    status, _, err = command(*words)
    assert status == 2
    assert expected in err
    assert err.startswith("rqjax: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--label=10"], "10 is out of range: this prior has 10 classes, from 0 to 9"),
        (["--label=bags"], "--label has 'bags', which is no class of this prior: did you mean Bag?"),
        (["--top_k=-1"], "top_k of depth 1 is -1: expected at least 1, or 0 to keep every code"),
        (["--top_k=3,4"], "--top_k has 2 values: give one, or one for each of 4 depths"),
        (["--top_p=0"], "top_p of depth 1 is 0.0: expected a number above 0"),
        (["--temperature=-1"], "temperature of depth 1 is -1.0: expected 0 (greedy) or more"),
        (["--position_top_k=3"], "--position_top_k is for DQ priors: this one has depth 1, depth 2, depth 3, depth 4"),
        (["--count=0"], "count"),
    ],
)
def test_bad_sampling_meets_one_line(command, tiny_run, tmp_path, words, expected):
    status, _, err = command("sample", f"--prior={tiny_run('rqtransformer')}", *words, f"--out={tmp_path / 'x.png'}")
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_a_tokenizer_is_no_prior(command, tiny_run):
    status, _, err = command("sample", f"--prior={tiny_run('rqvae')}")
    assert status == 2
    assert "holds no prior: expected the run directory of one" in err


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_no_images(command, tiny_run, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    status, _, err = command("reconstruct", f"--tokenizer={tiny_run('rqvae')}", f"--images={tmp_path / folder}")
    assert status == 2
    assert err.count("\n") == 1
    assert folder in err


def test_help(command):
    status, out, _ = command("--help")
    assert status == 0
    assert "quickstart" in out
    status, out, _ = command("sample", "--help")
    assert status == 0
    assert "--top_k" in out.replace("--[no]", "--")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "report: interrupted"),
        (Interrupted("runs/a: saved step 83; the same command goes on"), "runs/a: saved step 83; the same command"),
    ],
)
def test_ctrl_c_is_one_line(command, monkeypatch, error, words):
    def main(_):
        raise error

    monkeypatch.setattr("rqjax.programs.report.main", main)
    status, _, err = command("report", "--runs=a")
    assert status == 130
    assert words in err
    assert err.count("\n") == 1


def test_images_that_cannot_be_read_are_named_and_counted(command, tiny_run, tmp_path):
    words = (
        "reconstruct",
        f"--tokenizer={tiny_run('rqvae')}",
        f"--images={tmp_path}",
        f"--out={tmp_path / 'o' / 'x.png'}",
    )
    (tmp_path / "a\x1b[2J.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("<html>")
    status, out, error = command(*words)
    assert status == 2
    assert "none of the images can be read" in error
    assert r"a\x1b[2J.png" in out
    assert "skipped 2 in all" in out
    Image.new("RGB", (40, 50)).save(tmp_path / "c.png")
    status, out, _ = command(*words)
    assert status == 0
    assert "skipped 2 in all" in out
    assert "1 images of 32x32" in out
