import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from rqjax.errors import InputError
from rqjax.programs.train import train
from rqjax.run.directory import Run
from rqjax.run.ledger import Ledger, read_ledger
from rqjax.run.log import read_metrics
from rqjax.run.previews import found_previews
from rqjax.store.checkpoint import Checkpoints
from tests.configs.tiny import get_config
from tests.conftest import equal

HERE = pathlib.Path(__file__).parents[1]


@pytest.fixture
def tokenizer(tiny_run):
    return tiny_run("rqvae")


@pytest.mark.parametrize("variant", ["rqvae", "rqtransformer"])
def test_interrupted_equals_straight(variant, tokenizer, tmp_path):
    """The interrupted one validates and draws pictures too, which must not change anything."""

    def config(steps, watched=True):
        config = get_config(variant)
        config.steps = steps
        if watched:
            config.eval_every, config.eval_batches, config.preview_every = 3, 2, 3
        if variant == "rqtransformer":
            config.stage.tokenizer_path = str(tokenizer)
        return config

    straight = train(config(6, watched=False), tmp_path / "straight")
    train(config(4), tmp_path / "halves")
    resumed = train(config(6), tmp_path / "halves")
    assert int(resumed.step) == 6
    assert equal(straight, resumed)
    a, lines = read_metrics(tmp_path / "straight"), read_metrics(tmp_path / "halves")
    b = [line for line in lines if "eval_loss" not in line]
    assert [line["step"] for line in a] == [line["step"] for line in b] == [2, 4, 6]
    assert [line["loss"] for line in a if "loss" in line] == [line["loss"] for line in b if "loss" in line]
    held_out = {line["step"]: line for line in lines if "eval_loss" in line}
    assert list(held_out) == [3, 4, 6]
    best = Run.open(tmp_path / "halves" / "best")
    assert best.step == min(held_out, key=lambda step: held_out[step]["eval_loss"])
    if best.step == 6:
        assert equal(best.model(), resumed.model)
    assert best.tokenizer().config.stage.model == Run.open(tmp_path / "halves").tokenizer().config.stage.model
    if variant == "rqvae":
        assert {f"eval_{name}_{d + 1}" for name in ("psnr", "ssim", "usage", "perplexity") for d in range(4)} <= set(
            held_out[6]
        )
    ledger = read_ledger(tmp_path / "halves")
    assert ledger["starts"] == 2
    assert min(ledger[name] for name in ("starting", "compiling", "saving", "evaluating")) > 0
    pictures = {(step, name) for step, name, _ in found_previews(tmp_path / "halves")}
    names = ("reconstructions", "errors") if variant == "rqvae" else ("samples",)
    assert pictures == {(step, name) for step in (3, 6) for name in names}


def test_a_prior_keeps_its_tokenizer_and_shows_samples(tokenizer, tmp_path, monkeypatch):
    config = get_config("rqtransformer")
    config.stage.tokenizer_path, config.preview_every = str(tokenizer), config.steps
    uses, waits = [], []
    monkeypatch.setattr(Ledger, "turn", lambda self, name, turn=Ledger.turn: uses.append(name) or turn(self, name))
    monkeypatch.setattr(Checkpoints, "wait", lambda self, wait=Checkpoints.wait: waits.extend(uses[-1:]) or wait(self))
    train(config, tmp_path / "prior")
    assert "saving" in waits  # the wait for the last save counts
    (events,) = (tmp_path / "prior" / "tensorboard").iterdir()
    assert b"samples" in events.read_bytes()
    config.stage.tokenizer_path = str(tmp_path / "moved away")
    config.steps += 2
    train(config, tmp_path / "prior")
    run = Run.open(tmp_path / "prior")
    assert equal(run.tokenizer().model(), Run.open(tokenizer).model())
    assert run.step == config.steps


def test_another_configuration_is_refused_and_nothing_overwritten(tokenizer):
    before = {p: p.stat().st_mtime_ns for p in tokenizer.rglob("*")}
    config = get_config("rqvae")
    config.stage.optimizer.learning_rate = 0.5
    with pytest.raises(
        InputError, match=r"stage.optimizer.learning_rate is 0.002 there and 0.5 here.*another --workdir"
    ):
        train(config, tokenizer)
    assert {p: p.stat().st_mtime_ns for p in tokenizer.rglob("*")} == before


def test_prior_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected the run directory of a trained tokenizer"):
        train(get_config("rqtransformer"), tmp_path / "prior")


@pytest.mark.slow
def test_killed_equals_uninterrupted_bit_for_bit(tmp_path):
    """kill -9 in mid-training, twice, then to the end; a process of its own, as a user would have it."""
    steps = 60

    def command(workdir):
        flags = [f"--workdir={workdir}", f"--config.steps={steps}", "--config.save_every=5", "--config.log_every=5"]
        return [sys.executable, "-m", "rqjax", "train", f"--config={HERE / 'configs' / 'tiny.py'}:rqvae", *flags]

    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    for _ in range(2):
        victim = subprocess.Popen(command(tmp_path / "killed"), env=environment, stdout=subprocess.DEVNULL)
        before = len(read_metrics(tmp_path / "killed"))
        while len(read_metrics(tmp_path / "killed")) < before + 3 and victim.poll() is None:
            time.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    for name in ("killed", "straight"):
        subprocess.run(command(tmp_path / name), env=environment, check=True, stdout=subprocess.DEVNULL)
    killed, straight = (Run.open(tmp_path / name).model() for name in ("killed", "straight"))
    assert Run.open(tmp_path / "killed").step == steps
    assert equal(killed, straight)
    assert [line["step"] for line in read_metrics(tmp_path / "killed")] == list(range(5, steps + 1, 5))


def test_more_classes_than_the_model_has_are_refused(tmp_path):
    config = get_config("classifier")
    config.stage.model.classes = 7
    with pytest.raises(InputError, match=r"the data has 10 classes, stage.model.classes is 7: set it to 10"):
        train(config, tmp_path)
