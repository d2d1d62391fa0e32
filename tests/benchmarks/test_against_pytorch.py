import io
import sys

import numpy as np
import pytest
import yaml
from rich.console import Console

from benchmarks.against.results import Result, Timed, disagreements, table
from benchmarks.against.rows import Row, changed, dq_rows, rq_rows
from benchmarks.against.served import dynamic_codes, weights
from benchmarks.against_pytorch import Side, arguments, measure
from rqjax.errors import InputError, RunError
from rqjax.official.convert import keys
from rqjax.official.documents import model_config
from tests.golden.deterministic import det_array
from tests.official_files import DQTRANSFORMER, DQVAE

ARCH = """
arch:
  type: rq-vae
  hparams: {bottleneck_type: rq, embed_dim: 256, n_embed: 2048, latent_shape: [8, 8, 256], code_shape: [8, 8, 4],
    shared_codebook: true, decay: 0.99, restart_unused_codes: true, loss_type: mse, latent_loss_weight: 0.25}
  ddconfig: {double_z: false, z_channels: 256, resolution: 256, in_channels: 3, out_ch: 3, ch: 128,
    ch_mult: [1, 1, 2, 2, 4, 4], num_res_blocks: 2, attn_resolutions: [16], dropout: 0.0}
"""
PRIOR = """
arch:
  type: rq-transformer
  block_size: [8, 8, 4]
  embed_dim: 1024
  input_embed_dim: 256
  shared_tok_emb: true
  shared_cls_emb: true
  input_emb_vqvae: true
  head_emb_vqvae: true
  cumsum_depth_ctx: true
  vocab_size_cond: 1
  block_size_cond: 1
  body: {n_layer: 24, block: {n_head: 16}}
  head: {n_layer: 4, block: {n_head: 16}}
"""


@pytest.fixture
def checkouts(tmp_path):
    """Folders with as much of both checkouts as is read before a process starts."""
    rq, dq = tmp_path / "rq", tmp_path / "dq"
    for folder in ("rqvae/models", "configs/ffhq/stage1", "configs/ffhq/stage2"):
        (rq / folder).mkdir(parents=True)
    for folder in ("models/stage2_dynamic", "configs/stage1", "configs/stage2"):
        (dq / folder).mkdir(parents=True)
    (dq / "configs/stage1/dqvae-dual-r-05_imagenet.yml").write_text(yaml.safe_dump(DQVAE))
    (dq / "configs/stage2/uncond_imagenet_p6c18.yml").write_text(yaml.safe_dump(DQTRANSFORMER))
    (rq / "configs/ffhq/stage1/ffhq256-rqvae-8x8x4.yaml").write_text(ARCH)
    (rq / "configs/ffhq/stage2/ffhq256-rqtransformer-8x8x4-350M.yaml").write_text(PRIOR)
    return rq, dq


def words(rq, dq, python=sys.executable, *more):
    return [f"--rq_checkout={rq}", f"--dq_checkout={dq}", f"--python={python}", *more]


def test_paths_that_are_something_else_are_one_line(checkouts, tmp_path):
    rq, dq = checkouts
    with pytest.raises(InputError, match=r"--rq_checkout=.*nowhere has no rqvae/models: give a checkout"):
        arguments(words(tmp_path / "nowhere", dq))
    with pytest.raises(InputError, match=r"--dq_checkout=.* has no models/stage2_dynamic: give a checkout"):
        arguments(words(rq, rq))
    with pytest.raises(InputError, match=r"--python=.*nowhere does not run \(No such file"):
        arguments(words(rq, dq, tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"--turns is 0: expected at least 1"):
        arguments(words(rq, dq, sys.executable, "--turns=0"))
    with pytest.raises(InputError, match=r"--threads is 4096: this process may use \d+ cores"):
        arguments(words(rq, dq, sys.executable, "--threads=4096"))


def test_a_python_without_pytorch_is_one_line(checkouts, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named torch' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(InputError, match=r"has no PyTorch or no omegaconf: ModuleNotFoundError: No module named torch"):
        arguments(words(*checkouts, python))


@pytest.mark.parametrize("quick", [False, True])
def test_every_row_is_a_model_that_both_sides_know(checkouts, quick):
    rows = rq_rows(checkouts[0], quick) + dq_rows(checkouts[1], quick)
    assert len({row.name for row in rows}) == len(rows) == 17
    for row in rows:
        models = [model_config(row.job[part]) for part in ("tokenizer", "prior") if part in row.job]
        if len(models) == 2:
            models[1].check_tokenizer(models[0])


def test_a_change_leaves_the_section_and_its_other_values():
    section = {"a": {"b": 1, "c": [2]}, "d": 3}
    assert changed(section, a={"b": 4}, d=5) == {"a": {"b": 4, "c": [2]}, "d": 5}
    assert section == {"a": {"b": 1, "c": [2]}, "d": 3}


def test_weights_are_those_of_the_golden_rule(checkouts):
    job = rq_rows(checkouts[0], quick=True)[0].job
    shapes = keys(model_config(job["tokenizer"]))
    found = weights(shapes, shared=True)
    assert set(found) == set(shapes)
    np.testing.assert_array_equal(
        found["quant_conv.weight"], det_array("quant_conv.weight", shapes["quant_conv.weight"])
    )
    books = [found[f"quantizer.codebooks.{d}.weight"] for d in range(4)]
    assert all(np.array_equal(book, books[0]) for book in books)


def test_half_of_the_regions_are_fine_and_a_coarse_code_fills_its_region():
    codes, grain = dynamic_codes(3, (4, 8), 100)
    assert grain.mean(axis=(1, 2)).tolist() == [0.5] * 3
    blocks = codes.reshape(3, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(3, 4, 4, 4)
    one = (blocks == blocks[..., :1]).all(-1)
    assert one[grain == 0].all()
    assert not one[grain == 1].all()


def test_disagreements_are_seen():
    ours = {"x": np.ones(4, np.float32), "codes": np.arange(4), "more": np.zeros(2), "given": np.zeros(1)}
    theirs = {"x": np.float32([1, 1, 1, 1.5]), "codes": np.array([0, 1, 2, 5]), "shape": np.zeros(3)}
    found = disagreements(ours, theirs)
    assert found["codes"] == 0.25
    assert found["x"] == pytest.approx(0.5 / (3 + 1.5**2) ** 0.5)
    assert found["more"] == found["shape"] == float("inf")
    assert disagreements({"x": np.zeros(2)}, {"x": np.zeros(3)}) == {"x": float("inf")}


def test_the_table_says_what_was_missed_and_what_disagrees():
    official, ours = Timed(2.0, 3.0, 8.0, 6.0, 1.5), Timed(1.0, 20.0, 4.0, 4.0, 1.0)
    good = Result(Row("good", 1.5, {}), official, ours, {"x": 1e-5})
    bad = Result(Row("bad", 2.5, {}), official, ours, {"x": 1e-5, "y": 0.1})
    assert (good.agrees, bad.agrees, good.ratio, good.fastest) == (True, False, 2.0, 1.5)
    out = io.StringIO()
    Console(file=out, width=200).print(table([good, bad], floors=True))
    lines = {line.split()[1]: line for line in out.getvalue().splitlines() if "good" in line or "bad" in line}
    assert "missed" not in lines["good"]
    assert "!" not in lines["good"]
    assert "2.5 missed" in lines["bad"]
    assert "1e-01 !" in lines["bad"]


SIDE = """
import json, sys, time, numpy
say = lambda **x: print(json.dumps(x), flush=True)
say(seconds=0.5)
runs = 0
for line in sys.stdin:
    request, seconds = json.loads(line), 0.0
    if request["do"] == "check":
        numpy.savez(request["path"], x=numpy.ones(3) * float(sys.argv[2]))
    if request["do"] == "run":
        runs += 1
        seconds = float(sys.argv[3])
    if request["do"] == "warm":
        seconds = float(sys.argv[3]) + 7
    if request["do"] == "make" and request["row"]["job"] == "fail":
        raise ValueError("no such job")
    say(seconds=seconds, peak=runs, ran=True)
"""


@pytest.fixture
def side(tmp_path, monkeypatch):
    """Makes a side that answers as told: its outputs, and the seconds of a run behind the first."""
    (tmp_path / "pretended.py").write_text(SIDE)
    monkeypatch.setattr("benchmarks.against_pytorch.ROOT", tmp_path)
    return lambda value, seconds: Side("that side", [sys.executable, "pretended", str(value), str(seconds)])


def test_two_sides_are_checked_and_timed_by_turns(side):
    with side(1.0, 20.0) as official, side(1.1, 10.0) as ours:
        result = measure(Row("a", 1.5, {"job": "reconstruct"}), official, ours, 3)
    assert result.ratio == 2.0
    assert result.apart["x"] == pytest.approx(0.1)
    assert not result.agrees
    assert (result.official.start, result.ours.first) == (0.5, 7.0)  # a first run is a run and what compiles for it
    assert result.official.peak == 3  # three turns


def test_a_side_that_ends_is_one_line(side):
    with (
        side(1.0, 1.0) as official,
        side(1.0, 1.0) as ours,
        pytest.raises(RunError, match=r"that side ended with status 1; its last words: ValueError: no such job"),
    ):
        measure(Row("a", 1.0, {"job": "fail"}), official, ours, 3)
