"""`rqjax evaluate` on models that nobody trained: each figure is there, under its name, with what decides it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rqjax.api import shards
from rqjax.data import DataConfig
from rqjax.evaluation import classifier, kept
from rqjax.nets.inception import shapes
from rqjax.run.config import Config, to_dict
from rqjax.run.dataset import write_class_names
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import model_folder
from rqjax.store.arrays import to_arrays
from tests import small_rq
from tests.api.conftest import made
from tests.cut_off import cut_off_at
from tests.programs.conftest import command  # noqa: F401  (a fixture)

NAMES = ("0", "1", "2")
DATA = DataConfig(name="synthetic", count=24, classes=3, size=16, batch=8, threads=1)


def write(folder, stage, model):
    model_folder.save(folder, to_dict(Config(stage=stage, data=DATA, steps=1)), {"model": model}, "")
    write_class_names(folder, NAMES)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """The run directory of a prior, with its tokenizer in it."""
    folder = tmp_path_factory.mktemp("evaluate") / "prior"
    tokenizer = small_rq.patch_config(resolution=16)
    config = small_rq.small_config(classes=3, condition_dropout=0.1, body_layers=1, head_layers=1)
    config = dataclasses.replace(config, **config.following(tokenizer))
    write(folder, PredictConfig(model=config, tokenizer=tokenizer), made(config))
    vae = AutoencodeConfig(model=tokenizer, perceptual_weight=0.0, disc_weight=0.0)
    write(folder / "tokenizer", vae, made(tokenizer))
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 2)
    monkeypatch.setattr(classifier, "BATCH", 8)
    monkeypatch.setattr(shards, "IMAGES", 6)


def read(path):
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


def test_figures_of_a_tokenizer(prior, tmp_path, command):  # noqa: F811
    out = tmp_path / "eval.json"
    (prior / "tokenizer" / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n')  # a run that can be reported
    words = ("evaluate", f"--tokenizer={prior}", f"--out={out}", "--batch=10")
    status, said, _ = command(*words, f"--keep_classifier={tmp_path / 'judge'}")
    assert status == 0
    found = read(out)
    assert found["images"] == {
        **{"data": "synthetic", "split": "validation", "count": 24, "size": 16},
        **{"resize": 0, "filter": "bilinear", "crop": "center"},
    }
    assert {"mse", "psnr", "ssim"} <= set(found["figures"])
    assert set(found["codes"]) == {"1", "2", "3"}
    assert found["bits_of_the_codes_of_an_image"]["nominal"] == 16 * 3 * 4
    assert [point["value"] for point in found["rate_distortion"]] == [1, 2, 3]
    left = kept.read(prior / "tokenizer")
    assert [dataclasses.asdict(point) for point in left.points] == found["rate_distortion"]
    assert (left.images, left.source) == (24, "validation of synthetic")
    assert found["rate_distortion"][-1]["mse"] == pytest.approx(found["figures"]["mse"], rel=1e-4)
    judged = found["classifier features"]
    assert set(judged) == {"reconstructions", "perturbed"}
    assert {"frechet_distance", "monge_distance", "precision", "recall"} <= set(judged["perturbed"])
    assert "FID" not in {name for part in judged.values() for name in part}
    assert [line[:7] for line in found["missing"]] == ["no rFID", "no LPIP", "no MS-S"]
    assert found["protocol"]["judge"]["trained_here"]["steps"] == 2
    for line in (*found["missing"], "frechet_distance", "by depth"):
        assert line in said
    status, _, err = command(*words)
    assert (status, "exists already" in err) == (2, True)
    # the same batches with the classifier that was kept, and with others: the same figures
    assert (
        command(*words[:2], "--batch=24", f"--classifier={tmp_path / 'judge'}", f"--out={tmp_path / 'b.json'}")[0] == 0
    )
    again = read(tmp_path / "b.json")
    assert again["protocol"]["judge"]["sha256"] == found["protocol"]["judge"]["sha256"]
    assert again["codes"] == found["codes"]
    one, other = (x["classifier features"]["perturbed"]["frechet_distance"] for x in (again, found))
    assert one == pytest.approx(other, rel=1e-3)


def test_figures_of_a_prior_go_on_where_they_were_cut_off(prior, tmp_path, command, monkeypatch):  # noqa: F811
    words = ["evaluate", f"--prior={prior}", "--count=12", "--guidance=1,1.5", "--batch=6"]
    words += [f"--save_reference={tmp_path / 'real.npz'}", f"--keep_classifier={tmp_path / 'judge'}"]
    calls = cut_off_at(4, monkeypatch)
    out = tmp_path / "eval.json"
    assert command(*words, f"--out={out}")[0] == 130
    assert calls == ["real.npz", "shard_00000.npz", "shard_00001.npz", "shard_00000.npz"]
    assert not out.exists()
    words = [word for word in words if not word.startswith(("--save", "--keep"))]
    words += [f"--classifier={tmp_path / 'judge'}", f"--reference={tmp_path / 'real.npz'}"]
    status, said, _ = command(*words, f"--out={out}")
    assert status == 0
    assert calls[4:] == ["shard_00000.npz", "shard_00001.npz"]
    found = read(out)
    assert [row["guidance"] for row in found["results"]] == [1.0, 1.5]
    assert found["real_images"]["made_of"]["split"] == "train"
    assert found["protocol"]["draws"]["depth 3"] == {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    for row in found["results"]:
        assert row["count"] == 12
        assert 0 <= row["class_accuracy"] <= 1
        assert {"frechet_distance", "kernel_distance", "precision"} <= set(row["classifier features"])
        with np.load(f"{row['images']}/shard_00001.npz") as part:
            assert part["arr_0"].shape == (6, 16, 16, 3)
            assert part["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert "guidance 1.5" in said
    status, _, err = command(*words, "--seed=1", f"--out={out}", f"--images={tmp_path / 'eval_images'}")
    assert (status, "exists already" in err) == (2, True)
    status, _, err = command(*words, "--seed=1", f"--out={tmp_path / 'c.json'}", f"--images={tmp_path / 'eval_images'}")
    assert (status, "has images of another request (seed is 1 and was 0)" in err) == (2, True)


def test_a_tokenizer_without_classes_has_figures_of_pixels(prior, tmp_path, command):  # noqa: F811
    """Its run's images are a folder that is gone; others are given."""
    run = tmp_path / "run"
    stored = json.loads((prior / "tokenizer" / "config.json").read_text())
    stored = {name: value for name, value in stored.items() if name != model_folder.SUM}
    stored["data"] |= {"name": "folder", "path": str(tmp_path / "gone")}
    run.mkdir()
    (run / "config.json").write_text(json.dumps(stored))
    (run / "model.safetensors").write_bytes((prior / "tokenizer" / "model.safetensors").read_bytes())
    status, _, err = command("evaluate", f"--tokenizer={run}", f"--out={tmp_path / 'a.json'}")
    assert (status, "gone' is not a folder" in err) == (2, True)


@pytest.mark.slow
def test_figures_of_inception(prior, tmp_path, command, monkeypatch):  # noqa: F811
    """Its weights are random: the names of the figures, and the protocol that stands beside them."""
    from rqjax.torchfile import inception, published

    draw = np.random.default_rng(0)
    network = jax.tree.map(lambda x: (draw.normal(0, 0.05, x.shape)).astype(x.dtype), shapes())
    assert to_arrays(network)
    monkeypatch.setattr(published, "check_there", lambda *_: None)
    monkeypatch.setattr("rqjax.evaluation.judges.load_inception", lambda path, verify: network)
    file = tmp_path / inception.REMEDY.split()[1]
    file.write_bytes(b"weights")
    out = tmp_path / "eval.json"
    words = ("--protocol=torch-fidelity", "--limit=2", "--batch=4", f"--inception={file}", f"--out={out}")
    assert command("evaluate", f"--tokenizer={prior}", *words)[0] == 0
    found = read(out)
    assert {"rFID", "rsFID", "KID", "MIND", "IS"} <= set(found["inception"]["reconstructions"])
    assert "pFID" in found["inception"]["perturbed"]
    judge = found["protocol"]["judge"]
    assert (judge["resize"], judge["pixels"]) == ("tf1 to 299x299", "(x - 128) / 128 of bytes")
    assert judge["score"] == {"bias": False, "parts": 10, "size": 0, "seed": 2020}
