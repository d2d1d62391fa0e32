import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.quantize.entropy import (
    FLOOR,
    patch_entropy,
    read_thresholds,
    threshold_for,
    thresholds,
    write_thresholds,
)

SCALARS = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "dq" / "scalars.json").read_text())["entropy"]


@pytest.mark.parametrize("bins", ["0_1", "-1_1"])
@pytest.mark.parametrize("case", [0, 1])
def test_golden_maps(golden, case, bins):
    case_ = golden("dq/patch_entropy")
    image = jnp.asarray(case_.data[f"x{case}"].transpose(0, 2, 3, 1), jnp.float32)
    found = jax.jit(patch_entropy, static_argnums=(1, 2))(image, case_.meta["cases"][case]["patch"], bins)
    np.testing.assert_allclose(found, case_.data[f"bins_{bins}_{case}"], rtol=1e-4, atol=6e-5)


def synthetic(name):
    i, j = np.mgrid[:256, :256].astype(np.float64)
    if name.startswith("hgrad"):
        channels = [j / 255 * 2 - 1] * 3
    elif name.startswith("sin"):
        channels = [np.sin(0.7 * i) * np.cos(0.9 * j)] * 3
    else:
        channels = [j / 255 * 2 - 1, i / 255 * 2 - 1, np.sin(i * j / 500)]
    return jnp.asarray(np.stack(channels, -1)[None], jnp.float32)


@pytest.mark.parametrize("bins", ["0_1", "-1_1"])
@pytest.mark.parametrize("name", list(SCALARS))
def test_golden_scalars(name, bins):
    found = patch_entropy(synthetic(name), 16, bins)[0]
    np.testing.assert_allclose(found, SCALARS[name][f"bins_{bins}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("value", "bins", "expected"),
    [
        (0.0, "-1_1", 0.6931472),
        (-1.0, "-1_1", 2.0257e-8),
        (-0.2, "-1_1", 0.0800854),
        (-0.5, "0_1", 2.9472932e-37),
        (0.0, "0_1", 0.0339476),
        (0.5, "0_1", 0.6934599),
    ],
)
def test_flat_patches_alias_with_the_bins(value, bins, expected):
    found = patch_entropy(jnp.full((1, 16, 16, 3), value), 16, bins)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("bins", ["0_1", "-1_1"])
def test_every_brightness_is_finite_and_bounded(bins):
    """A definition that adds 1e-40 in linear space gives NaN where denormal numbers are flushed to zero."""
    brightness = jnp.linspace(-1.2, 1.2, 4001)
    image = jnp.broadcast_to(brightness[:, None, None, None], (4001, 4, 4, 3))
    found = np.asarray(patch_entropy(image, 4, bins))
    assert np.isfinite(found).all()
    assert found.min() >= np.float32(FLOOR)
    assert found.max() <= math.log(32)


def test_the_floor_is_not_above_itself_as_a_threshold():
    empty = patch_entropy(jnp.full((1, 8, 8, 3), -0.5), 8, "0_1")
    assert not (empty > jnp.float32(2.947292990206026e-37)).any()


def test_thresholds_are_elements_of_the_sorted_values():
    values = np.random.default_rng(0).permutation(1000).astype(np.float32).reshape(10, 10, 10)
    table = thresholds(values)
    assert table == {k: 10.0 * k for k in range(1, 100)}
    small = thresholds(np.array([3.0, 1.0, 2.0], np.float32))
    assert [small[k] for k in (1, 33, 34, 66, 67, 99)] == [1, 1, 2, 2, 3, 3]


def test_a_ratio_selects_that_share():
    values = np.random.default_rng(1).random(20_000).astype(np.float32)
    table = thresholds(values)
    for ratio in [0.0, 0.01, 0.25, 0.5, 0.55, 0.56, 0.99, 1.0]:
        assert np.mean(values > threshold_for(table, ratio)) == pytest.approx(ratio, abs=1e-3)


def test_ratios_round_to_the_nearest_percentile():
    table = {k: float(k) for k in range(1, 100)}
    assert [threshold_for(table, r) for r in (0.55, 0.56, 0.5)] == [45, 44, 50]  # truncation finds 44 and 43
    assert threshold_for(table, 1.0) == -math.inf
    assert threshold_for(table, 0.0) == math.inf


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratios_outside_are_refused(ratio):
    with pytest.raises(ValueError, match="outside"):
        threshold_for(dict.fromkeys(range(1, 100), 0.0), ratio)


def test_tables_keep_their_bins(tmp_path):
    table = {k: k / 7 for k in range(1, 100)}
    write_thresholds(tmp_path / "t.json", table, "-1_1", 4)
    assert read_thresholds(tmp_path / "t.json", "-1_1", 4) == table
    with pytest.raises(ValueError, match="bins -1_1 and patches of 4"):
        read_thresholds(tmp_path / "t.json", "0_1", 4)
    with pytest.raises(ValueError, match="patches of 16"):
        read_thresholds(tmp_path / "t.json", "-1_1", 16)


@pytest.mark.parametrize(("bins", "patch"), [("0_1", 16), ("-1_1", 8)])
def test_official_tables_do_not_say_how_they_were_computed(bins, patch, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({str(k): 0.1 for k in range(1, 100)}))
    assert read_thresholds(tmp_path / "t.json", bins, patch) == dict.fromkeys(range(1, 100), 0.1)


@pytest.mark.parametrize("text", ["", "[1]", '{"1": 0.5}', '{"1": "x"}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match="threshold table"):
        read_thresholds(tmp_path / "t.json", "0_1", 16)


@pytest.mark.parametrize(("size", "bins", "message"), [(18, "0_1", "do not divide"), (16, "0_2", "unknown")])
def test_unusable_images_and_bins_are_refused(size, bins, message):
    with pytest.raises(ValueError, match=message):
        patch_entropy(jnp.zeros((1, size, size, 3)), 16, bins)
