"""Run directories of an earlier version load, resume, sample and convert as they did; tests/golden/runs/README.md."""

import hashlib
import json
import os
import pathlib
import shutil
import sys
import tarfile

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import rqjax
from rqjax import __main__ as console
from rqjax.official import to_torch
from rqjax.programs.train import train
from rqjax.run.directory import Run
from rqjax.store.arrays import to_arrays
from tests.conftest import HERE

NAMES = ("rqvae", "rqtransformer", "dqvae", "dqtransformer")
PRIORS = ("rqtransformer", "dqtransformer")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The folder of the old runs."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(HERE / "golden" / "runs" / "runs.tar.xz") as archive:
        # the filter came with Python 3.11.4
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


@pytest.fixture(scope="module")
def truth(old):
    return json.loads((old / "truth.json").read_text())


@pytest.fixture
def program(monkeypatch):
    """Runs one line of the console script."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["rqjax", *map(str, words)])
        console.main()

    return run


def sha256(x) -> str:
    x = np.ascontiguousarray(x)
    return hashlib.sha256(f"{x.dtype} {x.shape}".encode() + x.tobytes()).hexdigest()[:16]


def machine() -> str:
    """As make_runs.py has it: what decides the last bit of a result."""
    if not pathlib.Path("/proc/cpuinfo").exists():
        return "another"
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    about = sorted({line for line in lines if line.startswith(("vendor_id", "model", "flags"))})
    parts = [*about, str(os.cpu_count()), jaxlib.__version__, " ".join(os.environ["XLA_FLAGS"].split())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def images() -> np.ndarray:
    """Two images of waves, NHWC in [-1, 1], the same on every machine."""
    y, x, channel = np.meshgrid(np.arange(8), np.arange(8), np.arange(3), indexing="ij")
    waves = [((3 * y + 5 * x * (channel + 1)) % 8 - 3.5) / 3.5, ((y * x + channel) % 5 - 2) / 2]
    return np.stack(waves).astype(np.float32)


def state_dict(path, *, ema: bool = True) -> dict[str, np.ndarray]:
    """The official state dict of a run."""
    kept = path / "tokenizer"
    tensors = to_torch(rqjax.load(path, ema=ema).model, rqjax.load(kept).model if kept.exists() else None)
    return {key: np.asarray(tensor) for key, tensor in tensors.items()}


def as_stored_then(state) -> list[np.ndarray]:
    """All arrays of a state as version 0.1 kept them: the rows behind the last codes of its one book as a matrix."""
    arrays = {name: np.asarray(x) for name, x in to_arrays(state).items()}
    return [x[None] if name.endswith("codebooks/0/padding") else x for name, x in arrays.items()]


def digests(tensors):
    return {key: sha256(tensor) for key, tensor in tensors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_old_runs_load_and_convert(old, truth, name, program, tmp_path):
    for ema in (True, False):
        assert digests(state_dict(old / name, ema=ema)) == truth["runs"][name]["state_dict"][str(ema)]
    program("convert", f"--to_safetensors={old / name}", f"--out={tmp_path / 'folder'}")
    assert digests(state_dict(tmp_path / "folder")) == truth["runs"][name]["state_dict"]["True"]
    program("convert", f"--to_torch={old / name}", f"--out={tmp_path / 'model.pt'}")


@pytest.mark.parametrize("name", PRIORS)
def test_old_folders_load_and_become_runs(old, truth, name, program, tmp_path):
    folder = old / f"{name}-folder"
    assert digests(state_dict(folder)) == truth["runs"][name]["state_dict"]["True"]
    program("convert", f"--from_safetensors={folder}", f"--out={tmp_path / 'run'}")
    assert digests(state_dict(tmp_path / "run")) == truth["runs"][name]["state_dict"]["True"]


@pytest.mark.parametrize("name", ["rqvae", "dqvae"])
def test_old_tokenizers_give_the_same_codes(old, truth, name):
    codes = rqjax.load(old / name).model.encode(jnp.asarray(images()))
    parts = {"codes": codes} if isinstance(codes, jax.Array) else {"codes": codes.codes, "grain": codes.grain}
    assert {part: np.asarray(value).tolist() for part, value in parts.items()} == truth["runs"][name]["codes"]


@pytest.mark.parametrize("name", PRIORS)
def test_old_priors_give_the_same_samples(old, truth, name, program, tmp_path):
    """The likeliest codes are the same; those that a seed draws are each version's own."""
    for kind, words in truth["words"].items():
        program("sample", f"--prior={old / name}", "--label=1,8", "--count=2", *words, f"--out={tmp_path / kind}.npz")
        with np.load(tmp_path / f"{kind}.npz") as data:
            found = np.int32(data["arr_0"])
        expected = np.array(truth["runs"][name]["samples"][kind])
        assert found.shape == expected.shape
        same = np.abs(found - expected).max() <= 1  # a byte's own rounding
        assert same == (kind == "greedy")


def dropout_then(key, x, rate):
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


@pytest.mark.parametrize(
    "name",
    ["rqtransformer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rqvae", "dqvae", "dqtransformer"))],
)
def test_old_runs_resume(old, truth, name, tmp_path, monkeypatch):
    """Two more steps have the bits of the old code where the machine is the same, and its values elsewhere.

    With the masks of dropout drawn as they were then: the present ones are others, as a seed's samples are.
    """
    for module in ("nets.transformer", "rq.network", "dq.network"):
        monkeypatch.setattr(f"rqjax.{module}.dropout", dropout_then)
    run = tmp_path / name
    shutil.copytree(old / name, run)
    config = Run.open(run).config
    config.steps += truth["more"]
    state = train(config, run)
    if machine() == truth["machine"]:
        assert sorted(map(sha256, as_stored_then(state))) == truth["runs"][name]["resumed"]
    with np.load(old / "moved.npz") as moved:
        for ema in (True, False):
            expected = {key.split("/", 2)[2]: moved[key] for key in moved if key.startswith(f"{name}/{ema}/")}
            before, after = state_dict(old / name, ema=ema), state_dict(run, ema=ema)
            # biases before a normalisation have no gradient but rounding noise, of which Adam makes whole steps
            keys = [key for key in expected if not key.endswith(".bias")]
            found = np.concatenate([(after[key] - before[key]).ravel() for key in keys])
            near = np.concatenate([expected[key].ravel() for key in keys])
            assert np.linalg.norm(found - near) < 0.02 * np.linalg.norm(near)
