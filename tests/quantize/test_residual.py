import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.mesh import make_mesh
from rqjax.quantize import Codebook, QuantizerConfig, ResidualQuantizer
from rqjax.quantize.codebook import candidates

KEY = jax.random.key(0)
DIM = 32
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "quantize" / "residual.npz"
encode = jax.jit(ResidualQuantizer.encode, static_argnames="train")
SHARED = QuantizerConfig(codebook_size=(48,), depth=3, decay=(0.9,))
SEPARATE = QuantizerConfig(codebook_size=(48, 24, 16), depth=3, decay=(0.99, 0.93, 0.83))


@pytest.fixture
def z():
    return jax.random.normal(jax.random.key(1), (8, 4, 2, DIM))


@pytest.fixture(params=[SHARED, SEPARATE], ids=["shared", "separate"])
def quantizer(request):
    return request.param.init(KEY, DIM)


def test_partial_sums_are_sums_of_the_codes_and_approach_z(quantizer, z):
    for step in range(20):
        _, quantizer = encode(quantizer, z, jax.random.fold_in(KEY, step), train=True)
    out, same = encode(quantizer, z, KEY, train=False)
    for before, after in zip(jax.tree.leaves(quantizer), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(before, after)
    sums = jnp.moveaxis(jnp.cumsum(quantizer.vectors(out.codes), axis=-2), -2, 0)
    np.testing.assert_allclose(out.partial, sums, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.quantized, quantizer.embed(out.codes), rtol=1e-4, atol=1e-5)
    for d in (1, 2, 3):
        np.testing.assert_allclose(out.partial[d - 1], quantizer.embed(out.codes[..., :d]), rtol=1e-4, atol=1e-5)
    errors = jnp.mean((z - out.partial) ** 2, axis=(1, 2, 3, 4))
    assert (np.diff(errors) < 0).all()
    np.testing.assert_allclose(out.metrics["commitment"], jnp.mean(errors), rtol=1e-5)
    np.testing.assert_allclose(out.loss, 0.25 * jnp.mean(errors), rtol=1e-5)
    assert [(np.asarray(out.codes[..., d]) < size).all() for d, size in enumerate(quantizer.sizes)] == [True] * 3


@pytest.mark.parametrize("grid", [(), (12,), (4, 3), (2, 2, 3)])
def test_the_shape_of_the_grid_changes_no_code(grid):
    quantizer = SEPARATE.init(KEY, DIM)
    z = jax.random.normal(jax.random.key(1), (12, DIM))[: max(int(np.prod(grid)), 1)]
    flat, _ = encode(quantizer, z, KEY, train=False)
    out, _ = encode(quantizer, z.reshape(*grid, DIM), KEY, train=False)
    assert out.quantized.shape == (*grid, DIM)
    np.testing.assert_array_equal(out.codes, flat.codes.reshape(*grid, 3))
    np.testing.assert_array_equal(out.partial, flat.partial.reshape(3, *grid, DIM))
    np.testing.assert_allclose(out.loss, flat.loss, rtol=1e-6)


def golden_quantizer(data, case, moment, decay, **settings):
    books = []
    for index, own in enumerate(decay):
        arrays = [jnp.asarray(data[f"{case}/{moment}/{index}/{name}"]) for name in ("embed", "count", "total")]
        books.append(Codebook(*arrays, decay=own))
    return ResidualQuantizer(tuple(books), depth=3, **settings)


@pytest.mark.parametrize("case", ["shared", "separate", "update_once"])
def test_three_steps_are_those_of_the_functions_before(case):
    """Residuals are up to 6 and sums of 3 float32 terms; averages of vectors carry the rounding of 48 hits at most.

    The nearest two codes of any vector differ by 6e-4 or more in squared distance, so rounding decides none.
    """
    number = ["shared", "separate", "update_once"].index(case)
    key = jax.random.fold_in(jax.random.key(7), number)
    decay = (0.9, 0.8, 0.7) if case == "separate" else (0.9,)
    tolerance = {"rtol": 1e-5, "atol": 48 * 6 * float(jnp.finfo(jnp.float32).eps)}
    with np.load(GOLDEN) as data:
        quantizer = golden_quantizer(data, case, "before", decay, update_once_per_step=case == "update_once")
        expected = golden_quantizer(data, case, "after", decay, update_once_per_step=case == "update_once")
        for step in range(3):
            step_key = jax.random.fold_in(key, step)
            out, quantizer = encode(quantizer, jnp.asarray(data[f"{case}/{step}/z"]), step_key, train=True)
            np.testing.assert_array_equal(out.codes, data[f"{case}/{step}/codes"])
            found = {"partial": out.partial, "quantized": out.quantized, **out.metrics}
            for name in ("partial", "quantized", "commitment", "usage", "perplexity", "restarted", "restart_warning"):
                np.testing.assert_allclose(found[name], data[f"{case}/{step}/{name}"], **tolerance, err_msg=name)
        for ours, theirs in zip(jax.tree.leaves(quantizer), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, **tolerance)
        z = jnp.asarray(data[f"{case}/2/z"])
        np.testing.assert_array_equal(encode(expected, z, key, train=False)[0].codes, data[f"{case}/evaluation/codes"])


def reference_step(books, x, key):
    """Section 2.4 of the specification, one vector and one code after the other, in float64."""
    state = [{k: np.asarray(getattr(book, k), np.float64) for k in ("embed", "count", "total")} for book in books]
    residual, codes, restarted = np.asarray(x, np.float64), [], []
    for depth in range(3):
        which = 0 if len(state) == 1 else depth
        book, decay = state[which], books[which].decay
        found = ((residual[:, None] - book["embed"]) ** 2).sum(-1).argmin(1)
        hits = np.bincount(found, minlength=len(book["count"])).astype(np.float32)
        # in float32, since a count of exactly 1 is on the threshold
        count = np.float32(decay) * book["count"].astype(np.float32) + np.float32(1 - decay) * hits
        total = decay * book["total"]
        np.add.at(total, found, (1 - decay) * residual)
        offered = candidates(jax.random.fold_in(key, depth), jnp.asarray(residual, jnp.float32), len(count))
        unused = count < books[which].restart_threshold * (1 - 1e-6)
        count[unused], total[unused] = 1, np.asarray(offered)[unused]
        vectors, n = book["embed"][found], count.sum()
        smooth = n * (count + 1e-5) / (n + len(count) * 1e-5)
        state[which] = {"embed": total / smooth[:, None], "count": count, "total": total}
        residual = residual - vectors
        codes.append(found)
        restarted.append(unused.mean())
    return np.stack(codes, -1), [x for book in state for x in book.values()], restarted


def in_use(quantizer, key):
    """A quantizer of whose codes some are about to be restarted.

    After a first step, where all are, codes are often equal: a residual that is a code leaves minus the code before it,
    and so do others. Rounding then decides which of them is nearest.
    """
    counts = [jax.random.uniform(key, (book.size,), minval=0.5, maxval=3.0) for book in quantizer.codebooks]
    books = [
        dataclasses.replace(book, count=n, total=book.embed * n[:, None])
        for book, n in zip(quantizer.codebooks, counts, strict=True)
    ]
    return dataclasses.replace(quantizer, codebooks=tuple(books))


def test_training_follows_the_order_of_the_reference(quantizer):
    for step in range(3):
        key = jax.random.fold_in(KEY, step)
        before = in_use(quantizer, key)
        z = jax.random.normal(key, (8, 4, 2, DIM))  # the same z again would leave residuals of 0, and ties
        codes, expected, restarted = reference_step(before.codebooks, z.reshape(-1, DIM), key)
        assert max(restarted) > 0.1
        out, after = encode(before, z, key, train=True)
        np.testing.assert_array_equal(out.codes.reshape(-1, 3), codes)
        np.testing.assert_allclose(out.metrics["restarted"], restarted, rtol=1e-6)
        learned = [getattr(book, name) for book in after.codebooks for name in ("embed", "count", "total")]
        for ours, theirs in zip(learned, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_later_depths_search_what_earlier_depths_changed(z):
    quantizer = SHARED.init(KEY, DIM)
    sequential, _ = encode(quantizer, z, KEY, train=True)
    frozen, _ = encode(quantizer, z, KEY, train=False)
    np.testing.assert_array_equal(sequential.codes[..., 0], frozen.codes[..., 0])
    assert (sequential.codes[..., 1] != frozen.codes[..., 1]).any()


def test_one_update_per_step_searches_one_book_and_sees_all_depths(z):
    quantizer = dataclasses.replace(SHARED, update_once_per_step=True, restart_threshold=0.0).init(KEY, DIM)
    out, after = encode(quantizer, z, KEY, train=True)
    frozen, _ = encode(quantizer, z, KEY, train=False)
    np.testing.assert_array_equal(out.codes, frozen.codes)
    count = after.codebooks[0].count
    np.testing.assert_allclose(count, 0.1 * np.bincount(out.codes.reshape(-1), minlength=48), rtol=1e-5)


def test_eight_devices_give_the_codes_and_codebooks_of_one(quantizer):
    mesh = make_mesh()
    for step in range(4):
        key = jax.random.fold_in(KEY, step)
        one = in_use(quantizer, key)
        eight = jax.device_put(one, jax.NamedSharding(mesh, jax.P()))
        z = jax.random.normal(key, (8, 4, 2, DIM))
        split = jax.device_put(z, jax.NamedSharding(mesh, jax.P("data")))
        out, one = encode(one, z, key, train=True)
        with jax.set_mesh(mesh):
            out8, eight = encode(eight, split, key, train=True)
        np.testing.assert_array_equal(out.codes, out8.codes)
        assert out.metrics["restarted"].max() > 0
        for name, value in out.metrics.items():
            np.testing.assert_allclose(out8.metrics[name], value, rtol=1e-5, err_msg=name)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_pass_straight_through_and_by_the_commitment_alone(quantizer, z):
    weights = jax.random.normal(jax.random.key(2), z.shape)

    def straight(z, quantizer):
        return jnp.sum(encode(quantizer, z, KEY, train=True)[0].quantized * weights)

    def loss(z, quantizer):
        return encode(quantizer, z, KEY, train=True)[0].loss

    dz, dbooks = jax.grad(straight, argnums=(0, 1))(z, quantizer)
    np.testing.assert_allclose(dz, weights, rtol=1e-6)
    dz, dloss = jax.grad(loss, argnums=(0, 1))(z, quantizer)
    out, _ = encode(quantizer, z, KEY, train=True)
    expected = 0.25 * jnp.mean(2 * (z - out.partial), axis=0) / z.size
    np.testing.assert_allclose(dz, expected, rtol=1e-4, atol=1e-9)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves((dbooks, dloss)))


def test_bfloat16_latents_are_quantized_in_float32(quantizer, z):
    half = z.astype(jnp.bfloat16)
    out, after = encode(quantizer, half, KEY, train=True)
    exact, _ = encode(quantizer, half.astype(jnp.float32), KEY, train=True)
    np.testing.assert_array_equal(out.codes, exact.codes)
    np.testing.assert_array_equal(out.quantized, exact.quantized)
    assert {leaf.dtype for leaf in jax.tree.leaves((after, out.quantized))} == {jnp.dtype("float32")}


def test_the_warning_rises_with_restarts(z):
    for limit, expected in ((0.5, 1), (1.0, 0)):
        quantizer = dataclasses.replace(SHARED, restart_warning=limit).init(KEY, DIM)
        out, _ = encode(quantizer, z, KEY, train=True)
        assert out.metrics["restarted"].max() > 0.5
        assert out.metrics["restart_warning"] == expected


def test_nothing_is_trained_by_gradients(quantizer):
    assert quantizer.parameters is None
    assert quantizer.with_parameters(None) is quantizer


def test_a_book_alone_is_the_first_depth():
    quantizer = dataclasses.replace(SHARED, depth=1).init(KEY, DIM)
    z = jax.random.normal(KEY, (5, DIM))
    out, _ = encode(quantizer, z, KEY, train=False)
    found, _ = quantizer.codebooks[0].encode(z, KEY, train=False)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(out), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
