import sys

import pytest

from benchmarks import latents

PRIOR = "imagenet_rqtransformer:1400m"


def test_with_latents_a_step_of_the_published_prior_is_the_transformers():
    counts = {kind: latents.operations(PRIOR, kind, rows=1) for kind in latents.KINDS}
    assert 0 < 1 - counts["given codes"] / counts["latents"] < 0.02
    assert counts["images"] > 1.1 * counts["given codes"]


def test_a_step_from_latents_is_timed():
    name, kind = "quickstart:rqtransformer", "latents"
    assert latents.step_of(name, kind, 2)() > 0
    assert latents.shapes_of(latents.stage_of(name, kind), kind, 2)["latent"].shape == (2, 4, 4, 64)


def test_other_configurations_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["latents.py", "--counted", "quickstart:dqtransformer"])
    with pytest.raises(SystemExit, match="quickstart:dqtransformer trains no RQ-Transformer"):
        latents.main()
