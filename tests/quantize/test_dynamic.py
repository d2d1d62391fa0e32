import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.quantize import dynamic
from rqjax.quantize.codebook import Codebook

SCALARS = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "dq" / "scalars.json").read_text())


def one_hot_gate(*shares, cells=1024):
    """A gate over `cells` regions in which grain g + 1 has the share shares[g]."""
    counts = [round(share * cells) for share in shares]
    grain = np.repeat(np.arange(len(shares) + 1), [cells - sum(counts), *counts])
    return jnp.asarray(np.eye(len(shares) + 1, dtype=np.float32)[grain].reshape(4, 16, 16, -1))


def test_golden_budgets():
    case = SCALARS["budget_dual"]
    found = dynamic.dual_budget(one_hot_gate(case["fine_ratio"]), case["target"], float(case["gamma"]))
    np.testing.assert_allclose(found, case["loss"], rtol=1e-5)
    case = SCALARS["budget_triple"]
    gate = one_hot_gate(case["median"], case["fine"])
    np.testing.assert_allclose(
        dynamic.triple_budget(gate, *case["targets"], float(case["gamma"])), case["loss"], rtol=1e-4
    )


def test_golden_quantizer_step():
    case = SCALARS["vq_step"]
    array = lambda name: jnp.asarray(case[name], jnp.float32)  # noqa: E731
    settings = {"decay": case["decay"], "restart_threshold": 0.0, "commitment_weight": case["beta"]}
    book = Codebook(embed=array("weight"), count=array("cluster"), total=array("embed_ema"), **settings)
    z, mask = array("x_BCHW").transpose(0, 2, 3, 1), array("mask")[:, 0]
    found = dynamic.quantize(book, z, mask)
    after, restarted = dynamic.learn(book, z, found.codes, jax.random.key(0))
    assert found.codes.tolist() == case["codes"]
    np.testing.assert_allclose(found.loss, case["loss"], rtol=1e-5)
    np.testing.assert_allclose(found.quantized.transpose(0, 3, 1, 2), case["quant"], atol=1e-6)
    np.testing.assert_allclose(after.count, case["after_cluster"], rtol=1e-6)
    np.testing.assert_allclose(after.total, case["after_embed_ema"], rtol=1e-5)
    np.testing.assert_allclose(after.embed, case["after_weight"], rtol=1e-5)
    assert float(restarted) == 0


def test_commitment_reaches_z_with_beta_and_quantized_passes_straight_through():
    key = jax.random.key(1)
    book = Codebook(embed=jax.random.normal(key, (7, 3)), count=jnp.ones(7), total=jnp.ones((7, 3)))
    z = jax.random.normal(jax.random.fold_in(key, 1), (2, 4, 4, 3))
    mask = jax.random.uniform(jax.random.fold_in(key, 2), (2, 4, 4))
    out = dynamic.quantize(book, z, mask)
    slope = jax.grad(lambda z: dynamic.quantize(book, z, mask).loss)(z)
    np.testing.assert_allclose(slope, 0.25 * 2 * (z - out.quantized) * mask[..., None] / z.size, rtol=1e-4, atol=1e-7)
    through = jax.grad(lambda z: jnp.sum(dynamic.quantize(book, z, mask).quantized * z.shape[0]))(z)
    np.testing.assert_allclose(through, 2.0)


def test_restarts_move_unused_codes_onto_the_batch():
    book = Codebook(embed=jnp.eye(4) * 100, count=jnp.zeros(4), total=jnp.eye(4))
    z = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    after, restarted = dynamic.learn(book, z, jnp.zeros((2, 4, 4), jnp.int32), jax.random.key(1))
    assert float(restarted) == 1
    nearest = np.linalg.norm(np.asarray(after.embed)[:, None] - np.asarray(z).reshape(1, -1, 4), axis=-1).min(1)
    np.testing.assert_allclose(nearest, 0, atol=1e-3)


@pytest.mark.parametrize("grains", [2, 3])
def test_the_gate_is_one_hot_forward_and_softmax_backward(grains):
    logits = jax.random.normal(jax.random.key(0), (2, 4, 4, grains))
    grain = dynamic.first_best(logits)
    np.testing.assert_array_equal(grain, jnp.argmax(logits, -1))
    np.testing.assert_allclose(
        dynamic.straight_through(logits, grain), jax.nn.one_hot(jnp.argmax(logits, -1), grains), atol=1e-6
    )
    weight = jax.random.normal(jax.random.key(2), logits.shape)
    slope = jax.grad(lambda x: jnp.sum(dynamic.straight_through(x, grain) * weight))(logits)
    soft = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * weight))(logits)
    np.testing.assert_allclose(slope, soft, rtol=1e-5, atol=1e-7)


def test_equal_logits_choose_the_coarser_grain():
    zeros = jnp.zeros((1, 2, 2, 3))
    assert int(dynamic.first_best(zeros).max()) == 0
    assert int(dynamic.first_best(zeros.at[..., 0].set(-1.0)).min()) == 1


def test_logits_with_gumbel_noise_sample_the_softmax():
    logits = jnp.broadcast_to(jnp.log(jnp.asarray([0.2, 0.5, 0.3])), (1, 200, 200, 3))
    grain = dynamic.first_best(logits + jax.random.gumbel(jax.random.key(3), logits.shape))
    np.testing.assert_allclose(dynamic.grain_fractions(grain, 3), [0.2, 0.5, 0.3], atol=0.01)


@pytest.mark.parametrize("grains", [2, 3])
def test_merging_shows_each_region_at_its_grain(grains):
    grid, fine = 4, 4 * 2 ** (grains - 1)
    rng = np.random.default_rng(0)
    features = [jnp.asarray(rng.random((2, grid * 2**g, grid * 2**g, 3)), jnp.float32) for g in range(grains)]
    grain = jnp.asarray(rng.integers(0, grains, (2, grid, grid)), jnp.int32)
    merged = np.asarray(dynamic.merge_grains(features, grain))
    mask = np.asarray(dynamic.codebook_mask(grain, grains))
    per_region, share = fine // grid, 0
    for b, y, x in np.ndindex(2, fine, fine):
        g = int(grain[b, y // per_region, x // per_region])
        block = fine // (grid * 2**g)
        np.testing.assert_array_equal(merged[b, y, x], features[g][b, y // block, x // block])
        assert mask[b, y, x] == 1 / block**2
        share += mask[b, y, x]
    assert share == int(dynamic.code_count(grain).sum())


def test_only_selected_features_get_a_gradient():
    features = [jnp.ones((1, 2, 2, 1)), jnp.ones((1, 4, 4, 1))]
    grain = jnp.asarray([[[0, 1], [1, 0]]])
    coarse, fine = jax.grad(lambda f: jnp.sum(dynamic.merge_grains(f, grain)))(features)
    np.testing.assert_array_equal(coarse[0, ..., 0], [[4, 0], [0, 4]])
    np.testing.assert_array_equal(dynamic.upsample(1 - jnp.minimum(coarse, 1), 4), fine)


@pytest.mark.parametrize(
    ("ratios", "counts"), [((0.5,), (32,)), ((0.3, 0.3), (19, 19)), ((0.0, 1.0), (0, 64)), ((0.5, 0.5), (32, 32))]
)
def test_exact_ratios_give_every_image_the_same_counts(ratios, counts):
    assert dynamic.grain_counts(ratios, 64) == counts
    score = jax.random.normal(jax.random.key(0), (5, 8, 8)).at[0].set(0.0).at[1, :4].set(jnp.nan)
    grain = np.asarray(jax.jit(lambda s: dynamic.exact_grain(s, counts))(score))
    for image in grain:
        assert [int((image == g + 1).sum()) for g in range(len(counts))] == list(counts)
    if counts[0] != 0:
        assert (np.diff(grain[0].reshape(-1)) <= 0).all()  # ties: the first regions are the finest
    ordered = np.take_along_axis(grain[2].reshape(-1), np.argsort(np.asarray(score[2]).reshape(-1)), 0)
    assert (np.diff(ordered) >= 0).all()


def test_counts_never_exceed_the_regions():
    for a in np.linspace(0, 1, 41):
        for b in np.linspace(0, 1 - a, 17):
            counts = dynamic.grain_counts((float(a), float(b)), 9)
            assert min(counts) >= 0
            assert sum(counts) <= 9


@pytest.mark.parametrize("ratios", [(1.2,), (-0.1,), (0.6, 0.6), (float("nan"),)])
def test_ratios_outside_are_refused(ratios):
    with pytest.raises(ValueError, match="ratios"):
        dynamic.grain_counts(ratios, 64)


def test_thresholds_are_strict_and_nan_is_coarse():
    entropy = jnp.asarray([[[0.5, 1.0, 1.5, jnp.nan, 2.0, 9.0]]])
    assert dynamic.threshold_grain(entropy, jnp.asarray([1.0, 2.0])).tolist() == [[[0, 0, 1, 0, 1, 2]]]
    assert dynamic.threshold_grain(entropy[..., :3], jnp.asarray([jnp.inf])).tolist() == [[[0, 0, 0]]]
    assert dynamic.threshold_grain(entropy[..., :3], jnp.asarray([-jnp.inf])).tolist() == [[[1, 1, 1]]]


def test_detail_score_orders_regions_by_their_logits():
    logits = jnp.asarray([[[[0.0, 0.0], [0.0, 3.0], [200.0, -200.0], [201.0, -200.0]]]])
    np.testing.assert_allclose(dynamic.detail_score(logits), [[[0.0, 3.0, -400.0, -401.0]]])
    triple = jnp.asarray([[[[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]]]])
    assert (jnp.diff(dynamic.detail_score(triple)[0, 0]) > 1).all()
