"""Warnings while training: each cause by figures that show it, once in a hundred steps, over restarts of the run."""

import json
import math

import pytest

from rqjax.programs.train import train
from rqjax.report import write_report
from rqjax.run.alarms import FILE, Alarms, read_alarms
from rqjax.run.signs import Books, Sign, Signs
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig
from tests import small_dq, small_rq
from tests.api.conftest import made
from tests.configs.smallest import get_config

BOOKS = Books({"1": 100, "2": 200}, 200, 1000)
QUIET = {"usage_1": 0.5, "usage_2": 0.4, "restarted_1": 0.01, "restarted_2": 0.0, "gradient_norm": 1.0}
QUIET |= {"reconstruction": 0.02, "eval_reconstruction": 0.029, "logits_real": 0.9, "logits_fake": -2.0}


def signs(gan="hinge", books=BOOKS):
    return Signs(AutoencodeConfig(model=small_rq.patch_config(), gan=gan), books)


def causes(found):
    return [sign.cause for sign in found]


def test_a_run_that_is_well_is_not_warned():
    watched = signs()
    assert [causes(watched.of(step, QUIET)) for step in range(50, 1000, 50)] == [[]] * 19


@pytest.mark.parametrize(
    ("figures", "cause", "words"),
    [
        # 1,000 vectors would use all of 100 codes by chance, and 99.3 % of 200
        ({"usage_1": 0.09}, "usage", "depth 1: a step uses 9.0% of the codes, where its vectors could use 100%"),
        ({"usage_1": 0.01, "usage_2": 0.09}, "usage", "depth 1, 2: a step uses 1.0%, 9.0% of the codes"),
        ({"restarted_1": 0.02, "restarted_2": 0.25}, "restarts", "depth 1, 2: 2, 50 codes were restarted in one step"),
        ({"restarted": 0.02}, "restarts", "the codebook: 4 codes were restarted"),
        ({"eval_reconstruction": 0.031}, "held out", "reconstruction is 0.031 on held-out images, 1.6 times"),
        ({"logits_real": 1.1}, "discriminator", "mean logit is 1.1 for images and -2 for reconstructions"),
        ({"gradient_norm": 10.5}, "gradients", "gradient_norm is 10.5, 10 times its median"),
        ({"disc_gradient_norm": math.inf}, "gradients", "disc_gradient_norm is inf"),
        ({"gradient_norm": math.nan}, "gradients", "gradient_norm is nan"),
    ],
)
def test_each_cause_has_a_sentence_and_a_remedy(figures, cause, words):
    watched = signs()
    for step in range(100, 200, 10):
        assert not watched.of(step, QUIET)
    (found,) = watched.of(200, QUIET | figures)
    assert found.cause == cause
    assert words in found.said
    assert "try " in found.said


def test_codes_and_discriminators_are_judged_when_they_had_time():
    bad = QUIET | {"usage_1": 0.0, "restarted_1": 1.0, "logits_real": 9.0, "logits_fake": -9.0}
    assert not signs().of(99, bad)
    assert causes(signs().of(100, bad)) == ["usage", "restarts", "discriminator"]


def test_a_batch_too_small_for_its_book_is_no_low_usage():
    """20 vectors use at most a tenth of 200 codes: 9 % of them is much."""
    assert not signs(books=Books({}, 200, 20)).of(100, {"usage": 0.09})
    assert causes(signs(books=Books({}, 200, 20)).of(100, {"usage": 0.009})) == ["usage"]


def test_a_discriminator_without_a_hinge_is_sure_later():
    assert not signs("vanilla").of(100, {"logits_real": 2.0, "logits_fake": -4.0})
    assert signs("vanilla").of(100, {"logits_real": 3.5, "logits_fake": -4.0})


def test_a_prior_that_learns_by_heart():
    watched = Signs(PredictConfig(model=small_rq.small_config()), None)
    assert not watched.of(100, {"loss": 2.0, "usage_1": 0.0})
    assert not watched.of(100, {"eval_loss": 2.4})
    (found,) = watched.of(200, {"eval_loss": 2.6})
    assert found.said.startswith("loss is 2.6 on held-out images, 1.3 times that of training")


def test_books_of_tokenizers():
    residual = Books.of(made(small_rq.patch_config()).code_sizes, 3)
    assert (residual.sizes, residual.size, residual.vectors) == ({"1": 16, "2": 16, "3": 16}, 16, 3 * 16)
    config = small_dq.tokenizer_config()
    dynamic = Books.of(made(config).code_sizes, 3)
    assert (dynamic.sizes, dynamic.size) == ({}, config.codebook_size)
    assert dynamic.vectors == 3 * config.grids[0] ** 2


def test_a_cause_is_named_once_in_a_hundred_steps_also_over_a_restart(tmp_path):
    """A run that goes on from step 150 forgets what was said later, which will be run again."""
    first, a, b = Alarms(tmp_path, 0), Sign("a", "words of a"), Sign("b", "words of b")
    assert first.said(50, [a]) == ["warning at step 50: words of a"]
    assert first.said(149, [a, b]) == ["warning at step 149: words of b"]
    assert first.said(160, [a, b]) == ["warning at step 160: words of a"]
    again = Alarms(tmp_path, 150)
    assert again.said(151, [b]) == []
    assert again.said(152, [a]) == ["warning at step 152: words of a"]
    assert [(x.step, x.cause) for x in read_alarms(tmp_path)] == [(50, "a"), (149, "b"), (152, "a")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[" * 100_000,
        b"{}",
        b'{"step": 1e400}',
        b'{"step": true, "cause": "a", "said": "b"}',
        b"9" * 5000,
    ],
)
def test_no_content_stops_a_run_or_a_report(tmp_path, content):
    whole = {"step": 3, "cause": "a", "said": "line\nend \ud800"}
    (tmp_path / FILE).write_bytes(content + b"\n" + json.dumps(whole).encode() + b"\n" + content)
    (found,) = read_alarms(tmp_path)
    assert (found.step, found.said) == (3, "line\\nend \\ud800")
    assert Alarms(tmp_path, 5).said(103, [Sign("a", "again")])
    assert len(read_alarms(tmp_path)) == 2
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert read_alarms(tmp_path) == []


def test_a_run_whose_codes_all_restart_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    """It is a run that nothing else ails; the second start does not say it again, and a damaged file stops nothing."""
    monkeypatch.setattr("rqjax.run.signs.SETTLED", 2)
    config = get_config()
    config.steps, config.stage.model.quantizer.restart_threshold = 3, 1e6
    train(config, tmp_path / "run")
    words = "depth 1, 2: 32, 32 codes were restarted in one step"  # a machine under load may wait for data besides
    said = [line for line in capsys.readouterr().out.splitlines() if words in line]
    assert [line.split(": ", 1)[0] for line in said] == ["warning at step 2"]
    config.steps = 4
    train(config, tmp_path / "run")
    assert words not in capsys.readouterr().out
    (tmp_path / "run" / FILE).write_bytes(b"\xff[{")
    config.steps = 5
    train(config, tmp_path / "run")
    assert f"warning at step 5: {words}" in capsys.readouterr().out
    write_report(tmp_path / "r.html", "t", runs=[tmp_path / "run"], pictures={}, summary={})
    assert f"<li>Step 5: {words}" in (tmp_path / "r.html").read_text()
