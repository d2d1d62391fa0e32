"""Priors in bfloat16 and in int8, and the memory that drawing takes."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rqjax
from rqjax.api import memory
from rqjax.api.memory import bytes_of
from rqjax.api.pixels import DECODED
from rqjax.api.prior import draws_by_stream
from rqjax.errors import InputError
from rqjax.mesh import name_of
from rqjax.nets.guidance import Guidance

ONE = jax.local_devices()[:1]


@pytest.fixture(scope="module")
def half(prior):
    return rqjax.load(prior.run.path, devices=ONE, batch=4, dtype="bfloat16")


def test_all_parameters_but_norms_take_half(prior, half):
    found = jax.tree_util.tree_leaves_with_path(half.model)
    for path, array in found:
        assert array.dtype == (jnp.float32 if "norm" in name_of(path) else jnp.bfloat16), name_of(path)
    norms = sum(x.size for path, x in found if "norm" in name_of(path))
    assert bytes_of(half.model) == bytes_of(prior.model) // 2 + 2 * norms
    assert bytes_of(half.tokenizer.model) == bytes_of(prior.tokenizer.model)


def test_pixels_of_new_images_are_made_in_the_same_type(half):
    """They are those of float32 but for a rounding of 2**-8 in each layer."""
    made = half.generate("Bag", count=4)
    exact = half.tokenizer.decode(made.codes).images
    difference = np.abs(np.int32(made.images) - exact)
    assert difference.max() > 0
    assert difference.mean() < 255 * 2**-7
    assert half.tokenizer.model.config.dtype == "float32"


def test_greedy_codes_mostly_agree_with_float32(prior, half, figures):
    """A code differs where two logits are nearer than a rounding of 2**-8, and then all behind it may."""
    whole = rqjax.load(prior.run.path, devices=ONE, batch=4, dtype="float32")
    codes = [model.generate(count=1, labels=[0, 1, 2, 0], temperature=0).codes for model in (whole, half)]
    pairs = list(zip(*map(jax.tree.leaves, codes), strict=True))
    share = np.mean(np.concatenate([(a == b).ravel() for a, b in pairs]))
    figures(f"greedy codes of {type(prior.model).__name__} in bfloat16 as in float32", f"{share:.3f}")
    assert share > 0.5
    assert half.generate("Bag", count=4, guidance=2.0).images.shape == (4, 8, 8, 3)


def test_in_int8_the_layers_that_draw_take_a_quarter(prior):
    """The rest is float32 here, on a CPU, and so are pixels."""
    small = rqjax.load(prior.run.path, devices=ONE, batch=4, dtype="int8")
    arrays = jax.tree_util.tree_leaves_with_path(small.model)
    kinds = {name_of(path): array.dtype for path, array in arrays}
    kernels = {name for name, kind in kinds.items() if kind == jnp.int8}
    assert kernels == {name for name in kinds if "blocks/" in name and name.endswith("/kernel")}
    assert set(kinds.values()) == {jnp.dtype("int8"), jnp.dtype("float32")}
    scales = sum(x.size for path, x in arrays if "norm" not in name_of(path) and name_of(path).endswith("/scale"))
    saved = sum(3 * x.size for _, x in arrays if x.dtype == jnp.int8) - 4 * scales
    assert bytes_of(small.model) == bytes_of(prior.model) - saved
    made = small.generate("Bag", count=4)
    np.testing.assert_array_equal(made.images, small.tokenizer.decode(made.codes).images)


def plan_of(prior, images=4, guided=False):
    draws = draws_by_stream(prior.config.stage.model.streams, 1.0, 0, 1.0)
    return prior.plan(prior.request("Bag", None, images, 0, draws, Guidance(scale=2.0 if guided else 1.0)))


def test_the_caches_of_an_image_are_counted(residual):
    """A key and a value of 32 numbers for each layer: 16 positions of the body (1 condition), 3 depths."""
    caches = 2 * 32 * 4 * (16 + 3)
    assert residual.model.footprint.row == caches + 16 * 16
    once, twice = (plan_of(residual, guided=guided) for guided in (False, True))
    assert twice.image - once.image == residual.model.footprint.row
    assert once.weights > bytes_of(residual.model) + bytes_of(residual.tokenizer.model)
    assert once.needed == once.weights + 4 * (once.image + once.pixels)
    assert dataclasses.replace(once, images=5, devices=2).needed == once.weights + 3 * (once.image + once.pixels)
    many = dataclasses.replace(once, images=100)
    assert many.needed == once.weights + 100 * once.image + DECODED * once.pixels


def test_batches_that_do_not_fit_are_refused_with_one_that_does(residual, monkeypatch):
    plan = plan_of(residual)
    each = plan.image + plan.pixels
    for room, advice in (
        (2.5, "batch=2 fits"),
        (0.5, "not one image fits: take dtype=bfloat16 or int8, or a smaller model"),
    ):
        monkeypatch.setattr(memory, "limit_of", lambda _, room=room: plan.weights + int(room * each))
        with pytest.raises(
            InputError, match=rf"4 images at once take about .* MiB, .* for weights, of .* MiB of each device: {advice}"
        ):
            residual.generate("Bag", count=4)
    monkeypatch.setattr(memory, "limit_of", lambda _: plan.weights + 4 * each)
    assert len(residual.generate("Bag", count=6)) == 6
    many = dataclasses.replace(plan, images=100)
    for more in (0, 1):  # all but DECODED of them need no room for pixels
        limit = plan.weights + DECODED * each + 10 * plan.image
        with pytest.raises(InputError, match=f"batch={DECODED + 10 + more} fits"):
            dataclasses.replace(many, limit=limit + more * plan.image).check()


def test_the_need_is_said_in_a_line():
    plan = memory.Plan(weights=3 * 2**30, image=2**27, pixels=2**27, images=8, devices=2, limit=16 * 2**30)
    said = "8 images at once take about 4.0 GiB, 3.0 GiB of these for weights, of "
    assert str(plan) == f"{said}16.0 GiB of each device"
    assert str(dataclasses.replace(plan, limit=None)) == f"{said}a device that does not tell its own"


def test_the_least_memory_of_several_devices_counts_if_all_tell():
    def devices(*limits):
        stats = [None if x is None else {"bytes_limit": x} for x in limits]
        return [types.SimpleNamespace(memory_stats=lambda told=told: told) for told in stats]

    assert memory.limit_of(devices(5, 3)) == 3
    assert memory.limit_of(devices(5, None)) is None


def test_other_types_and_other_models_are_refused(residual):
    with pytest.raises(InputError, match="dtype is 'float16': expected one of float32, bfloat16, int8"):
        rqjax.load(residual.run.path, dtype="float16")
    with pytest.raises(InputError, match=r"dtype is 'bfloat16', and .* holds a RQVAEConfig: it is for priors"):
        rqjax.load(residual.run.path / "tokenizer", dtype="bfloat16")
