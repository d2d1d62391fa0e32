"""Runs in a bucket, by a stand-in for gcsfs that keeps gs://BUCKET/NAME in a folder here.

What is tested is our side and epath's: tensorstore, which opens gs:// by a driver of its own, is sent to that folder.
"""

import dataclasses
import pathlib
import types

import pytest
from etils import epath
from fsspec.registry import _registry, known_implementations
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

import rqjax
from rqjax.errors import InputError
from rqjax.programs import convert
from rqjax.programs.train import train
from rqjax.run import copies, log
from rqjax.run.directory import Run
from rqjax.store import checkpoint, model_folder, remote, stored
from tests.buckets import bucket_in
from tests.configs.tiny import get_config
from tests.conftest import equal


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder behind gs://bucket; `opened` lists (mode, name). Nothing may appear in the working folder."""
    root, here = tmp_path / "cloud", tmp_path / "here"
    here.mkdir()
    with bucket_in(root, monkeypatch) as (store, opened):
        monkeypatch.setattr(tensorstore_utils, "_normalize_path", lambda path: store._strip_protocol(path))
        monkeypatch.setattr(gcs_utils, "get_bucket", lambda name: types.SimpleNamespace())
        monkeypatch.chdir(here)
        yield types.SimpleNamespace(folder=root / "bucket", opened=opened)
    assert not list(here.iterdir())


@pytest.fixture
def here(tiny_run):
    """A folder with the run directories of a tokenizer and of a prior on it."""
    return tiny_run("rqtransformer").parent


def test_local_names_stay_those_of_pathlib():
    for name in ("a/../b", "~/c", "", "."):
        assert remote.to_path(name) == pathlib.Path(name)
        assert type(remote.to_path(name)) is type(pathlib.Path())
    assert not remote.in_bucket(epath.Path("a"))


def test_a_bucket_needs_gcsfs(monkeypatch):
    monkeypatch.delitem(_registry, "gcs", raising=False)
    missing = {"class": "not_installed_anywhere.FileSystem", "err": "none"}
    monkeypatch.setitem(known_implementations, "gcs", missing)
    for use in (stored.find, stored.steps, rqjax.load, log.read_metrics, model_folder.holds_model):
        with pytest.raises(InputError, match=r"gs://bucket/run is in a bucket.*install rqjax\[tpu\]"):
            use("gs://bucket/run")


@pytest.mark.parametrize("name", ["gs://", "gs:///", "s3://bucket/run", "http://somewhere"])
def test_other_addresses_are_refused(name):
    with pytest.raises(InputError, match="expected a local folder or gs://BUCKET/FOLDER"):
        remote.to_path(name)


@pytest.mark.slow
def test_training_in_a_bucket_equals_training_here(bucket, here):
    """A tokenizer in two halves, a prior on it, and a run that starts from it with a learning rate of zero."""
    tokenizer, prior = (get_config(name) for name in ("rqvae", "rqtransformer"))
    for steps in (2, tokenizer.steps):
        train(dataclasses.replace(tokenizer, steps=steps), remote.to_path("gs://bucket/rqvae"))
    prior.stage.tokenizer_path = "gs://bucket/rqvae"
    train(prior, remote.to_path("gs://bucket/rqtransformer"))
    for name in ("rqvae", "rqtransformer"):
        run = Run.open(f"gs://bucket/{name}")
        assert equal(run.model(), rqjax.load(here / name).model)
        assert run.step == run.config.steps
        for file in ("config.json", "parameters.txt"):
            theirs, ours = ((folder / name / file).read_text() for folder in (here, bucket.folder))
            assert ours.replace("gs://bucket/rqvae", str(here / "rqtransformer.lent")) == theirs
        lines, others = (log.read_metrics(place) for place in (f"gs://bucket/{name}", here / name))
        for line in lines + others:
            del line["images_per_second"]
        assert lines == others
        assert list((bucket.folder / name / "tensorboard").iterdir())
        assert not list((bucket.folder / name).glob("*.tmp"))
    assert equal(Run.open("gs://bucket/rqtransformer").tokenizer().model(), rqjax.load(here / "rqvae").model)
    config = get_config("rqvae")
    config.steps, config.stage.optimizer.learning_rate, config.start_from = 1, 0.0, "gs://bucket/rqvae"
    network = train(config, remote.to_path("gs://bucket/more")).model.network
    assert equal(network, rqjax.load(here / "rqvae").model.network)
    with pytest.raises(InputError, match=r"gs://bucket/rqvae belongs to another configuration"):
        train(config, remote.to_path("gs://bucket/rqvae"))


def test_metrics_are_copied_at_intervals_and_at_the_end(bucket, monkeypatch):
    def written():
        return bucket.opened.count(("w", log.FILE))

    place = remote.to_path("gs://bucket/run")
    lines = log.Log(place, start=0, steps=8, images_per_step=4)
    lines.scalars(2, {"loss": 2.0})
    assert (written(), log.read_metrics(place)) == (0, [])
    monkeypatch.setattr(copies, "SECONDS", 0)
    lines.scalars(4, {"loss": 4.0})
    assert [line["step"] for line in log.read_metrics(place)] == [2, 4]
    monkeypatch.setattr(copies, "SECONDS", 3600)
    lines.scalars(6, {"loss": 6.0})
    assert written() == 1
    lines.close()
    assert written() == 2
    lines = log.Log(place, start=4, steps=8, images_per_step=4)
    lines.scalars(6, {"loss": float("nan")})
    lines.close()
    assert [(line["step"], line["loss"]) for line in log.read_metrics(place)] == [(2, 2.0), (4, 4.0), (6, None)]
    assert list((bucket.folder / "run" / "tensorboard").iterdir())


def test_a_run_that_fails_leaves_its_metrics(bucket, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no more room")

    config = get_config("rqvae")
    monkeypatch.setattr(checkpoint.Checkpoints, "save", lambda self, step, *_, **__: step < 2 or fail())
    with pytest.raises(RuntimeError, match="no more room"):
        train(config, remote.to_path("gs://bucket/run"))
    assert [line["step"] for line in log.read_metrics("gs://bucket/run")] == [2]


def test_a_folder_that_is_a_model_is_read_from_a_bucket(bucket, here, tmp_path):
    convert.run_to_folder(str(here / "rqtransformer"), str(tmp_path / "model"))
    model_folder.write_licence(tmp_path / "model", "terms")
    bucket.folder.parent.mkdir()
    (tmp_path / "model").rename(bucket.folder)
    assert equal(rqjax.load("gs://bucket").model, rqjax.load(here / "rqtransformer").model)
    assert equal(Run.open("gs://bucket").tokenizer().model(), rqjax.load(here / "rqvae").model)
    assert Run.open("gs://bucket").licences == ["terms"]
    with pytest.raises(InputError, match="write to a local folder"), model_folder.new_folder("gs://bucket/new"):
        pass
