import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rqjax.errors import InputError
from rqjax.optim import OptimizerConfig, ema_update, make, schedule, warmup_then

SCHEDULES = pathlib.Path(__file__).parent / "golden" / "rq" / "lr_schedules.npz"
# Multipliers of DQ's schedule that the reference gave: warm-up of 533.8 updates, 266912 in all.
DQ_MULTIPLIERS = {
    0: 0.0,
    1: 0.0018733608092918698,
    100: 0.18733608092918697,
    533: 0.9985013113525666,
    534: 0.9999999999986091,
    1000: 0.9999924423663072,
    133456: 0.5015738707119658,
    266911: 3.477301779852837e-11,
}


def config(**changes) -> OptimizerConfig:
    base = OptimizerConfig(
        name="adamw",
        learning_rate=0.1,
        b1=0.9,
        b2=0.95,
        weight_decay=0.2,
        clip_norm=0.0,
        warmup_steps=0,
        schedule="constant",
        min_learning_rate=0.0,
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "stage1_lr4e5_warm0p5ep_spe20_ep3",
            {"learning_rate": 4e-5, "warmup_steps": 10, "schedule": "cosine", "min_learning_rate": 4e-5},
        ),
        ("stage1_lr4e5_warm0p5ep_spe20_ep3", {"learning_rate": 4e-5, "warmup_steps": 10}),
        ("stage2_lr5e4_cos_spe20_ep3", {"learning_rate": 5e-4, "schedule": "cosine"}),
    ],
)
def test_schedules_equal_the_reference(name, changes):
    with np.load(SCHEDULES) as data:
        expected = data[name]
    rate = schedule(config(**changes), len(expected))
    np.testing.assert_allclose([rate(t) for t in range(len(expected))], expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("decay", ["cosine", "clipped_cosine"])
def test_dq_multipliers_equal_the_reference(decay):
    rate = warmup_then(decay, 1.0, 0.0, 533.8, 266912)
    for step, expected in DQ_MULTIPLIERS.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9), step


def test_the_two_cosines_differ_above_zero():
    halfway = [
        schedule(config(schedule=name, min_learning_rate=0.08), 100)(50) for name in ("cosine", "clipped_cosine")
    ]
    np.testing.assert_allclose(halfway, [0.09, 0.08], rtol=1e-6)


def test_a_run_shorter_than_its_warmup_is_the_start_of_a_longer_one():
    short, long = (schedule(config(schedule="cosine", warmup_steps=50), steps) for steps in (20, 1000))
    np.testing.assert_array_equal([short(t) for t in range(21)], [long(t) for t in range(21)])


def by_hand(params, grads, rate, c, decays):
    """AdamW and clipping as PyTorch defines them, in NumPy."""
    mean, square = [{k: np.zeros_like(v) for k, v in params.items()} for _ in range(2)]
    for t, grad in enumerate(grads):
        norm = np.sqrt(sum(np.sum(g**2) for g in grad.values()))
        scale = min(1, c.clip_norm / (norm + 1e-6)) if c.clip_norm else 1
        for k, g in grad.items():
            mean[k] = c.b1 * mean[k] + (1 - c.b1) * g * scale
            square[k] = c.b2 * square[k] + (1 - c.b2) * (g * scale) ** 2
            params[k] = params[k] * (1 - rate(t) * c.weight_decay * decays(k))
            step = mean[k] / (1 - c.b1 ** (t + 1)) / (np.sqrt(square[k] / (1 - c.b2 ** (t + 1))) + 1e-8)
            params[k] = params[k] - rate(t) * step
    return params


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_adamw_equals_its_definition(clip_norm):
    c = config(clip_norm=clip_norm, warmup_steps=2)
    random = np.random.RandomState(0)
    params = {"kernel": random.randn(3, 2), "bias": random.randn(2)}
    grads = [{k: random.randn(*v.shape) for k, v in params.items()} for _ in range(5)]
    tx = make(c, 5, decay_mask=lambda name: name == "kernel")
    ours = jax.tree.map(jnp.float32, params)
    state = tx.init(ours)
    for grad in grads:
        ours, state = tx.update(jax.tree.map(jnp.float32, grad), state, ours)
    expected = by_hand(dict(params), grads, lambda t: 0.1 * min(1, t / 2), c, lambda k: k == "kernel")
    for k, value in expected.items():
        np.testing.assert_allclose(ours[k], value, atol=2e-6)


def test_decay_mask_sees_the_names_of_a_module():
    class Two(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)

    model, names = Two(nnx.Rngs(0)), []
    tx = make(config(), 1, decay_mask=lambda name: names.append(name) or name == "a/kernel")
    zeros = jax.tree.map(jnp.zeros_like, model)
    new, _ = tx.update(zeros, tx.init(model), model)
    assert sorted(names) == ["a/bias", "a/kernel", "b/bias", "b/kernel"]
    np.testing.assert_allclose(new.a.kernel[...], model.a.kernel[...] * (1 - 0.1 * 0.2), rtol=1e-6)
    np.testing.assert_array_equal(new.b.kernel[...], model.b.kernel[...])


def test_ema_follows_the_warmed_decay_and_leaves_integers():
    ema = {"w": jnp.float32(0.0), "n": jnp.int32(0)}
    expected = 0.0
    for t in range(20):
        ema = ema_update(ema, {"w": jnp.float32(t + 1.0), "n": jnp.int32(t)}, jnp.int32(t), 0.5)
        mu = min(0.5, (1 + t) / (10 + t))
        expected = mu * expected + (1 - mu) * (t + 1)
    assert float(ema["w"]) == pytest.approx(expected, rel=1e-5)
    assert int(ema["n"]) == 19


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "sgd"}, "optimizer.name is 'sgd': expected one of adam, adamw"),
        ({"schedule": "linear"}, "optimizer.schedule is 'linear': expected one of constant, cosine"),
        ({"name": "adam"}, "use adamw"),
        ({"b2": 1.0}, "optimizer.b2 is 1.0"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate is -1.0"),
        ({"min_learning_rate": 0.2}, "exceeds learning_rate=0.1"),
    ],
)
def test_bad_values_are_named(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        make(config(**changes), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("clip_norm", [0.0, 1.3])
def test_updates_are_those_of_optax_or_none(clip_norm):
    """To the bit; where gradients are clipped, which is in every other step, to roundings of their one factor. A step
    that is not good leaves all arrays as they were.
    """
    c = config(clip_norm=clip_norm, weight_decay=0.1)
    ours, clip = make(c, 10), [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    plain = optax.chain(
        *clip,
        optax.scale_by_adam(c.b1, c.b2, eps=1e-8),
        optax.add_decayed_weights(c.weight_decay),
        optax.scale_by_learning_rate(schedule(c, 10)),
    )

    @jax.jit
    def by_optax(grads, state, params):
        change, state = plain.update(grads, state, params)
        return optax.apply_updates(params, change), state

    params = {"a": jax.random.normal(jax.random.key(0), (16, 8)), "b": jnp.ones(())}
    expected = found = params, plain.init(params)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(found[1])
    update = jax.jit(lambda grads, state, params, good: ours.update(grads, state, params, good))
    for k in range(6):
        size = 3.0 if k % 2 else 1e-3
        grads = jax.tree.map(lambda x, k=k, size=size: size * jax.random.normal(jax.random.key(k), x.shape), params)
        nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), grads)
        refused = update(nothing, found[1], found[0], False)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, refused, found)))
        found, expected = update(grads, found[1], found[0], True), by_optax(grads, expected[1], expected[0])
        few = 8 * np.finfo(np.float32).eps if clip_norm else 0.0
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=few * float(np.abs(y).max()))
