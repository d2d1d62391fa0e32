"""A step that is not finite changes nothing but the counts, and too many of them in a row end the run."""

import dataclasses
import itertools
import pathlib
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rqjax import __main__ as console
from rqjax import mesh, optim
from rqjax.errors import RunError
from rqjax.programs.train import train
from rqjax.run import frozen, training_step
from rqjax.run.log import read_metrics
from rqjax.run.skips import Skips, SkipWatch, guarded
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.store import checkpoint, stored
from rqjax.store.arrays import to_arrays
from tests.configs.tiny import get_config
from tests.conftest import equal

TINY = str(pathlib.Path(__file__).parents[1] / "configs" / "tiny.py")
STEPS = 100
ADAM = optax.adam(0.1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    params: Any
    optimizer: Any
    codebook: Any


def small_step(state, frozen, batch, key):
    """A least-squares step; infinite batches make the loss infinite and the gradient NaN, and so the whole state."""
    loss, grad = jax.value_and_grad(lambda w: jnp.mean((batch * w - frozen) ** 2))(state.params)
    updates, optimizer = ADAM.update(grad, state.optimizer)
    new = State(state.step + 1, optax.apply_updates(state.params, updates), optimizer, state.codebook + batch)
    return new, {"loss": loss, "gradient_norm": optax.global_norm(grad), "usage": jnp.ones(4)}


def proposing(step):
    """The step before it is taken, of one that is taken at once."""

    def propose(state, frozen, batch, key):
        new, metrics = step(state, frozen, batch, key)
        return lambda good: dataclasses.replace(optim.kept(good, new, state), step=new.step), metrics

    return propose


def run(batches, max_skipped):
    """The states and metrics along `batches`, from a state of ones."""
    params = jnp.ones(3)
    state, skips = State(jnp.int32(0), params, ADAM.init(params), jnp.zeros(3)), Skips.none()
    step = jax.jit(guarded(proposing(small_step), max_skipped))
    states, seen = [state], []
    for value in batches:
        state, skips, metrics = step(state, skips, jnp.zeros(()), jnp.full(3, value), jax.random.key(0))
        states.append(state)
        seen.append((int(skips.total), int(skips.in_a_row), int(metrics["skipped"])))
    return states, seen


def same_but_for_the_step(a, b):
    return equal(*(dataclasses.replace(x, step=jnp.int32(0)) for x in (a, b)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_leaves_all_but_the_count_as_it_was(bad):
    states, seen = run([1.0, bad, 2.0, bad, bad, 3.0], max_skipped=3)
    assert [int(state.step) for state in states] == list(range(7))
    changed = [not same_but_for_the_step(a, b) for a, b in itertools.pairwise(states)]
    assert changed == [True, False, True, False, False, True]
    assert seen == [(0, 0, 0), (1, 1, 1), (1, 0, 1), (2, 1, 2), (3, 2, 3), (3, 0, 3)]
    straight, _ = run([1.0, 2.0, 3.0], max_skipped=3)
    assert same_but_for_the_step(states[-1], straight[-1])


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "usage"])
def test_any_one_metric_is_enough(name):
    def step(state, frozen, batch, key):
        new, metrics = small_step(state, frozen, batch, key)
        return new, metrics | {name: jnp.where(jnp.arange(4) == 2, jnp.nan, 1.0)}

    params = jnp.ones(3)
    state = State(jnp.int32(0), params, ADAM.init(params), jnp.zeros(3))
    new, skips, _ = jax.jit(guarded(proposing(step), 2))(
        state, Skips.none(), jnp.zeros(()), jnp.ones(3), jax.random.key(0)
    )
    assert same_but_for_the_step(new, state)
    assert int(skips.total) == 1


def test_after_too_many_in_a_row_good_steps_are_refused_as_well():
    states, seen = run([1.0, np.nan, np.nan, 2.0, 3.0], max_skipped=2)
    assert all(same_but_for_the_step(state, states[1]) for state in states[2:])
    assert not same_but_for_the_step(states[0], states[1])
    assert [total for total, _, _ in seen] == [0, 1, 2, 3, 4]


def asked(counts, *, max_skipped=3, last=None):
    """What a watch answers at steps 1, 2, ... for these numbers of skips in a row."""
    watch = SkipWatch(max_skipped)
    return [
        watch.given_up_at(step, Skips(jnp.int32(0), jnp.int32(n)), last=step == last)
        for step, n in enumerate(counts, 1)
    ]


def test_the_watch_answers_with_its_lag_and_at_once_when_it_is_the_last():
    counts = [0, 1, 2, 3, 4, 5, 6, 7]
    assert asked(counts) == [None] * 7 + [4]
    assert SkipWatch.LAG == 4
    assert asked(counts[:4], last=4) == [None, None, None, 4]
    assert asked(counts[:6], last=6) == [None] * 5 + [4]
    assert asked([0, 1, 2, 0, 1, 2, 0], last=7) == [None] * 7


@pytest.fixture
def poisoned(monkeypatch):
    """Makes chosen steps of one kind of stage return NaN, in the state and in the metrics.

    Which ones is data of the step, so that one compiled program serves several tests.
    """

    def choose(kind, *bad):
        build = kind.build

        def poisoned_build(self, steps):
            stage = build(self, STEPS)

            def propose(state, frozen, batch, key):
                take, metrics = stage.propose(state, None, batch, key)
                spoilt = frozen[state.step + 1]

                def spoil(tree, where):
                    def nan(x):
                        return jnp.where(where, jnp.nan, x) if jnp.issubdtype(x.dtype, jnp.floating) else x

                    return jax.tree.map(nan, tree)

                return lambda good: spoil(take(good), spoilt & good), spoil(metrics, spoilt)

            parts = {name: getattr(stage, name) for name in ("init", "frozen_shapes", "preview", "evaluate")}
            return types.SimpleNamespace(propose=propose, **parts)

        monkeypatch.setattr(kind, "build", poisoned_build)
        spoilt = jnp.isin(jnp.arange(STEPS), jnp.array(bad))
        monkeypatch.setattr(frozen, "load", lambda config, workdir: spoilt)

    return choose


def tiny(variant, steps):
    config = get_config(variant)
    config.steps = steps
    return dataclasses.replace(config, log_every=1, save_every=3, max_skipped=3)


def test_a_run_skips_and_says_so(poisoned, tmp_path, capsys):
    poisoned(ClassifyConfig, 2, 4, 5)
    state = train(tiny("classifier", 7), tmp_path)
    assert int(state.step) == 7
    assert all(np.isfinite(x).all() for x in to_arrays(state).values() if x.dtype == jnp.float32)
    lines = read_metrics(tmp_path)
    assert [line["skipped"] for line in lines] == [0, 1, 1, 2, 3, 3, 3]
    assert [line["step"] for line in lines if line["loss"] is None] == [2, 4, 5]
    said = capsys.readouterr().out
    assert "skipped 3 steps" in said


def test_a_run_that_stays_not_finite_ends_with_the_state_before_it_saved(poisoned, tmp_path):
    poisoned(AutoencodeConfig, *range(5, STEPS))
    before = train(tiny("rqvae", 4), tmp_path / "before")
    config = tiny("rqvae", STEPS)
    with pytest.raises(RunError, match=r"3 steps in a row up to step 7 .* saved as step 11: ") as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert stored.steps(tmp_path / "run")[-1] == 11
    placement = training_step.place(config, config.stage.build(config.steps))
    saves = checkpoint.Checkpoints(tmp_path / "run", every=1, keep=3)
    found = saves.restore(mesh.with_sharding(placement.state, placement.sharding))
    saves.close()
    assert int(found.step) == 11
    assert same_but_for_the_step(found, before)


def test_the_last_steps_of_a_run_are_looked_at_too(poisoned, tmp_path):
    poisoned(ClassifyConfig, 2, 3, 4)
    with pytest.raises(RunError, match=r"3 steps in a row up to step 4 .* saved as step 5: "):
        train(tiny("classifier", 5), tmp_path)


def test_the_command_line_ends_with_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    """No poison here: a learning rate that no training survives."""
    flags = ["--config.max_skipped=2", "--config.steps=20", "--config.stage.optimizer.learning_rate=1e38"]
    monkeypatch.setattr(sys, "argv", ["rqjax", "train", f"--config={TINY}:classifier", f"--workdir={tmp_path}", *flags])
    sys.modules.pop("rqjax.programs.train", None)  # the flags that a config file adds are defined once in a process
    with pytest.raises(SystemExit) as stop:
        console.main()
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("rqjax: ")
    assert "2 steps in a row up to step" in err
    assert err.count("\n") == 1


def test_one_cpu_is_asked_for_the_order_that_holds_least():
    """Several exchange data, for which that order is not made."""
    devices = jax.devices()
    assert list(training_step.compiler_options(devices[:1])) == ["xla_cpu_scheduler_type"]
    assert training_step.compiler_options(devices[:2]) == {}


def test_that_order_changes_no_number_and_holds_less():
    """Of eight chains of four arrays each, not all are held at once."""

    def step(x):
        return [jnp.sum(jnp.cumsum(jnp.cumsum(x + i, axis=0), axis=1) ** 2) for i in range(8)]

    lowered = jax.jit(step).lower(jnp.ones((256, 256)))
    plain, lean = (lowered.compile(compiler_options=o) for o in ({}, training_step.compiler_options(jax.devices()[:1])))
    assert lean.memory_analysis().temp_size_in_bytes < plain.memory_analysis().temp_size_in_bytes
    assert all(
        np.array_equal(a, b) for a, b in zip(plain(jnp.ones((256, 256))), lean(jnp.ones((256, 256))), strict=True)
    )
