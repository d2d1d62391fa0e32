import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq.rates import rates_of
from rqjax.evaluation.curve import Point, comparison, curve, table, verdict
from rqjax.quantize import dynamic
from rqjax.quantize.codebook import Codebook
from rqjax.quantize.perturb import choices, near
from tests import small_dq, small_rq
from tests.api.conftest import made

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def residual():
    return made(small_rq.patch_config())


def point(series, value, bits, mse):
    return Point(
        series=series, value=float(value), codes=1.0, bits=bits, entropy_bits=bits, mse=mse, psnr=1.0, ssim=None
    )


def test_words_say_whether_depths_help():
    falling = [point("by depth", d, 10.0 * d, 1 / d) for d in (1, 2, 3)]
    assert verdict(falling) == "The error falls with each depth."
    assert verdict([*falling, point("by depth", 4, 40.0, 0.5)]) == "The error does not fall at depth 4."


def test_words_compare_places_at_equal_bits():
    """By detail the error is 1 at 10 bits and 0 at 30; in between it is read off the line."""
    detail = [point("by detail", 0, 10.0, 1.0), point("by detail", 1, 30.0, 0.0)]
    assert verdict([*detail, point("at fixed places", 0.5, 20.0, 0.6)]).endswith("at every share.")
    said = verdict([*detail, point("at fixed places", 0.5, 20.0, 0.4), point("at fixed places", 0.75, 25.0, 0.9)])
    assert "leave no less error than the same tokenizer's fixed places at the shares 0.5." in said


def test_words_compare_two_tokenizers_at_equal_bits():
    """One falls from 1 at 10 bits to 0 at 30; between points it is read off the line."""
    steep = [point("by depth", 1, 10.0, 1.0), point("by depth", 2, 30.0, 0.0)]
    flat = [
        point("by detail", 0, 20.0, 0.6),
        point("by detail", 1, 40.0, 0.1),
        point("at fixed places", 0.5, 25.0, 0.0),
    ]
    assert comparison(("a", "b"), (steep, flat)) == "At equal bits, from 20 to 30, a leaves less error than b."
    assert comparison(("b", "a"), (flat, steep)) == "At equal bits, from 20 to 30, a leaves less error than b."
    early = [point("by depth", 1, 5.0, 0.5), point("by depth", 2, 15.0, 0.5), point("by depth", 3, 25.0, 0.5)]
    said = "At equal bits, from 10 to 25, b leaves less error than a, at 2 of the 3 measured rates."
    assert comparison(("a", "b"), (steep, early)) == said
    assert comparison(("a", "b"), (steep, [point("by depth", 1, 50.0, 0.0)])) == "a and b have no bits in common."


def test_all_points_are_in_the_table():
    rows = list(csv.reader(io.StringIO(table({"a,b": [point("by depth", 1, 10.0, 0.25)]}))))
    assert rows[0][:4] == ["run", "series", "value", "codes"]
    assert rows[1] == ["a,b", "by depth", "1.0", "1.0", "10.0", "10.0", "0.25", "1.0", "", ""]


def test_depths_of_a_residual_tokenizer(residual):
    """Two of three images count: their bits and their errors are those of the images alone."""
    batch = {"image": jnp.asarray(IMAGE), "counts": jnp.array([True, True, False])}
    points = curve(residual, [batch])
    assert [(p.series, p.value, p.codes, p.bits) for p in points] == [
        ("by depth", d, 16.0 * d, 16.0 * d * 4) for d in (1, 2, 3)
    ]
    last = residual.progressive(jnp.asarray(IMAGE[:2], jnp.float32) / 127.5 - 1)[-1]
    seen = np.round((np.clip(last, -1, 1) + 1) * 127.5) / 255
    assert points[-1].mse == pytest.approx(np.mean((seen - IMAGE[:2] / 255) ** 2), abs=1e-4)
    assert all(0 < p.entropy_bits <= p.bits for p in points)


@pytest.mark.parametrize("grains", [2, 3])
def test_rates_of_grains_cost_the_choice_of_regions(grains):
    found = rates_of(grains, 16)
    detail = [rate for rate in found if rate.series == "by detail"]
    assert [rate.value for rate in detail] == [k / 8 for k in range(9)]
    assert detail[0].extra_bits == detail[-1].extra_bits == 0
    assert all(rate.extra_bits == 0 for rate in found if rate.series == "at fixed places")
    if grains == 2:
        assert detail[4].extra_bits == pytest.approx(np.log2(12870))  # 8 of 16 regions


@pytest.mark.parametrize(("router", "series"), [("entropy", "by detail"), ("checkerboard", "at fixed places")])
def test_a_dynamic_tokenizer_at_its_own_share_is_itself(router, series):
    exact = router == "entropy"
    model = made(small_dq.tokenizer_config(router=router, exact_ratio=exact, ratios=(0.5,), budget_weight=0.0))
    side = model.config.resolution
    image = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, side, side, 3)), jnp.float32)

    @jax.jit
    def of(model, image):
        counts = jnp.ones(2, bool)
        return model.at_rates(image, counts), model.reconstruct(image), model.code_hits(model.encode(image), counts)

    (recon, hits), own, expected_hits = of(model, image)
    at = [(rate.series, rate.value) for rate in model.rates].index((series, 0.5))
    np.testing.assert_allclose(recon[at], own, atol=1e-5)
    for name, expected in expected_hits.items():
        np.testing.assert_allclose(hits[name][at], expected)
    coarse = [float(hits["coarse"][i].sum()) for i in range(9)]
    regions = model.config.grids[0] ** 2
    assert coarse == [2 * round((1 - k / 8) * regions) for k in range(9)]


def book(size=32, dim=5):
    table = jnp.asarray(np.random.default_rng(2).normal(size=(size, dim)), jnp.float32)
    zeros = {"count": jnp.zeros(size), "total": table, "padding": jnp.zeros(dim)}
    return Codebook(embed=table, **zeros, decay=0.9, restart_threshold=0.0, commitment_weight=0.0)


def test_near_codes_are_the_nearest_in_their_order():
    own = book()
    distance = np.sum((np.asarray(own.embed)[:, None] - np.asarray(own.embed)[None]) ** 2, axis=-1)
    order = np.argsort(distance, axis=1, kind="stable")
    codes, ranks = jnp.arange(32), jnp.arange(32) % 4
    assert np.array_equal(near(own, codes, ranks, among=4), order[np.arange(32), ranks])
    assert np.array_equal(near(own, codes, jnp.zeros(32, jnp.int32), among=100), codes)


def test_perturbed_codes_depend_on_the_image_alone(residual):
    codes, keys = jnp.asarray(small_rq.random_codes((16,) * 3, (4, 4, 4))), jax.random.split(jax.random.key(0), 4)
    perturbed = jax.jit(residual.perturbed, static_argnums=(2, 3))
    many, moved = perturbed(codes, keys, 0.5, 8), perturbed(codes[::-1], keys[::-1], 0.5, 8)
    assert np.array_equal(many[::-1], moved)
    changed = np.any(np.asarray(many != codes), axis=-1)
    assert 0.2 < changed.mean() < 0.8
    assert np.array_equal(perturbed(codes, keys, 0.0, 8), codes)


def test_cells_of_one_code_are_perturbed_together():
    grain = jnp.array([[[0, 1], [2, 0]]])
    chosen, ranks = choices(jax.random.split(jax.random.key(0), 1), (8, 8), 0.5, 9)
    for x in (chosen, ranks):
        found = np.asarray(dynamic.of_first_cell(x, grain, 3))[0]
        assert len(set(found[:4, :4].ravel().tolist())) == 1
        assert all(len(set(found[r : r + 2, c : c + 2].ravel().tolist())) == 1 for r in (0, 2) for c in (4, 6))
        assert np.array_equal(found[4:, :4], np.asarray(x)[0, 4:, :4])
