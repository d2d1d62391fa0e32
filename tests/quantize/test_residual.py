import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.mesh import make_mesh
from rqjax.quantize import residual as rq
from rqjax.quantize import soft
from rqjax.quantize.codebook import Codebook, candidates, init_codebook

KEY = jax.random.key(0)
SETTINGS = rq.ResidualSettings(depth=3, latent_shape=(8, 8, 4), code_shape=(4, 2), decay=(0.9,))
quantize = jax.jit(rq.quantize, static_argnames=("settings", "train"))


def make_books(*sizes: int, dim: int = SETTINGS.dim) -> rq.Codebooks:
    keys = jax.random.split(KEY, len(sizes))
    return tuple(init_codebook(key, size, dim) for key, size in zip(keys, sizes, strict=True))


@pytest.fixture
def z():
    return jax.random.normal(jax.random.key(1), (8, 8, 8, 4))


@pytest.fixture(params=["shared", "separate"])
def case(request):
    if request.param == "shared":
        return make_books(48), SETTINGS
    return make_books(48, 24, 16), dataclasses.replace(SETTINGS, decay=(0.99, 0.93, 0.83))


def test_unfold_is_the_inverse_of_fold(z):
    folded = rq.fold(z, SETTINGS)
    assert folded.shape == (8, 4, 2, 32)
    np.testing.assert_array_equal(rq.unfold(folded, SETTINGS), z)
    # row by row within a window, then the channels
    np.testing.assert_array_equal(folded[3, 1, 1].reshape(2, 4, 4), z[3, 2:4, 4:8])


def test_partial_sums_are_sums_of_the_codes_and_approach_z(case, z):
    books, settings = case
    trained = books
    for step in range(20):
        _, trained = quantize(trained, z, jax.random.fold_in(KEY, step), settings, True)
    out, same = quantize(trained, z, KEY, settings, False)
    for before, after in zip(jax.tree.leaves(trained), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(before, after)
    vectors = rq.embed_codes_with_depth(trained, out.codes)
    sums = jnp.moveaxis(jnp.cumsum(vectors, axis=-2), -2, 0)
    np.testing.assert_allclose(out.partial, sums, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.quantized, rq.embed_codes(trained, out.codes, settings), rtol=1e-4, atol=1e-5)
    errors = jnp.mean((rq.fold(z, settings) - out.partial) ** 2, axis=(1, 2, 3, 4))
    assert (np.diff(errors) < 0).all()
    np.testing.assert_allclose(out.commitment, jnp.mean(errors), rtol=1e-5)


def reference_step(books, x, key, settings):
    """Section 2.4 of the specification, one vector and one code after the other, in float64."""
    state = [{k: np.asarray(v, np.float64) for k, v in vars(book).items()} for book in books]
    residual, codes, restarted = np.asarray(x, np.float64), [], []
    for depth in range(settings.depth):
        which = 0 if len(state) == 1 else depth
        book, decay = state[which], settings.decay[which]
        found = ((residual[:, None] - book["embed"]) ** 2).sum(-1).argmin(1)
        hits = np.bincount(found, minlength=len(book["count"])).astype(np.float32)
        # in float32, since a count of exactly 1 is on the threshold
        count = np.float32(decay) * book["count"].astype(np.float32) + np.float32(1 - decay) * hits
        total = decay * book["total"]
        np.add.at(total, found, (1 - decay) * residual)
        offered = candidates(jax.random.fold_in(key, depth), jnp.asarray(residual, jnp.float32), len(count))
        unused = count < settings.restart_threshold * (1 - 1e-6)
        count[unused], total[unused] = 1, np.asarray(offered)[unused]
        vectors, n = book["embed"][found], count.sum()
        smooth = n * (count + 1e-5) / (n + len(count) * 1e-5)
        state[which] = {"embed": total / smooth[:, None], "count": count, "total": total}
        residual = residual - vectors
        codes.append(found)
        restarted.append(unused.mean())
    return np.stack(codes, -1), [Codebook(**book) for book in state], restarted


def in_use(books, key):
    """Books of which some codes are about to be restarted.

    After a first step, where all are, codes are often equal: a residual that is a code leaves minus the code before it,
    and so do others. Rounding then decides which of them is nearest.
    """
    counts = [jax.random.uniform(key, (book.size,), minval=0.5, maxval=3.0) for book in books]
    return tuple(Codebook(b.embed, n, b.embed * n[:, None]) for b, n in zip(books, counts, strict=True))


def test_training_follows_the_order_of_the_reference(case):
    fresh, settings = case
    for step in range(3):
        key = jax.random.fold_in(KEY, step)
        books = in_use(fresh, key)
        z = jax.random.normal(key, (8, 8, 8, 4))  # the same z again would leave residuals of 0, and ties
        x = rq.fold(z, settings).reshape(-1, settings.dim)
        codes, expected, restarted = reference_step(books, x, key, settings)
        assert max(restarted) > 0.1
        out, books = quantize(books, z, key, settings, True)
        np.testing.assert_array_equal(out.codes.reshape(-1, settings.depth), codes)
        np.testing.assert_allclose(out.metrics["restarted"], restarted, rtol=1e-6)
        for ours, theirs in zip(jax.tree.leaves(books), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_later_depths_search_what_earlier_depths_changed(z):
    books = make_books(48)
    sequential, _ = quantize(books, z, KEY, SETTINGS, True)
    frozen, _ = quantize(books, z, KEY, SETTINGS, False)
    np.testing.assert_array_equal(sequential.codes[..., 0], frozen.codes[..., 0])
    assert (sequential.codes[..., 1] != frozen.codes[..., 1]).any()


def test_one_update_per_step_searches_one_book_and_sees_all_depths(z):
    books, settings = make_books(48), dataclasses.replace(SETTINGS, update_once_per_step=True, restart_threshold=0.0)
    out, (after,) = quantize(books, z, KEY, settings, True)
    frozen, _ = quantize(books, z, KEY, settings, False)
    np.testing.assert_array_equal(out.codes, frozen.codes)
    np.testing.assert_allclose(after.count, 0.1 * np.bincount(out.codes.reshape(-1), minlength=48), rtol=1e-5)


def test_eight_devices_give_the_codes_and_codebooks_of_one(case):
    fresh, settings = case
    mesh = make_mesh()
    for step in range(4):
        key = jax.random.fold_in(KEY, step)
        one = in_use(fresh, key)
        eight = jax.device_put(one, jax.NamedSharding(mesh, jax.P()))
        z = jax.random.normal(key, (8, 8, 8, 4))
        split = jax.device_put(z, jax.NamedSharding(mesh, jax.P("data")))
        out, one = quantize(one, z, key, settings, True)
        with jax.set_mesh(mesh):
            out8, eight = quantize(eight, split, key, settings, True)
        np.testing.assert_array_equal(out.codes, out8.codes)
        assert out.metrics["restarted"].max() > 0
        for name, value in out.metrics.items():
            np.testing.assert_allclose(out8.metrics[name], value, rtol=1e-5, err_msg=name)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_pass_straight_through_and_by_the_commitment_alone(case, z):
    books, settings = case
    weights = jax.random.normal(jax.random.key(2), z.shape)

    def straight(z, books):
        return jnp.sum(quantize(books, z, KEY, settings, True)[0].quantized * weights)

    def commitment(z, books):
        return quantize(books, z, KEY, settings, True)[0].commitment

    dz, dbooks = jax.grad(straight, argnums=(0, 1))(z, books)
    np.testing.assert_allclose(dz, weights, rtol=1e-6)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(dbooks))
    out, _ = quantize(books, z, KEY, settings, True)
    expected = rq.unfold(jnp.mean(2 * (rq.fold(z, settings) - out.partial), axis=0) / z.size, settings)
    np.testing.assert_allclose(jax.grad(commitment)(z, books), expected, rtol=1e-4, atol=1e-9)


def test_bfloat16_latents_are_quantized_in_float32(case, z):
    books, settings = case
    half = z.astype(jnp.bfloat16)
    out, after = quantize(books, half, KEY, settings, True)
    exact, _ = quantize(books, half.astype(jnp.float32), KEY, settings, True)
    np.testing.assert_array_equal(out.codes, exact.codes)
    np.testing.assert_array_equal(out.quantized, exact.quantized)
    assert {leaf.dtype for leaf in jax.tree.leaves((after, out.quantized))} == {jnp.dtype("float32")}


def test_the_warning_rises_with_restarts(z):
    for limit, expected in ((0.5, 1), (1.0, 0)):
        settings = dataclasses.replace(SETTINGS, restart_warning=limit)
        out, _ = quantize(make_books(48), z, KEY, settings, True)
        assert out.metrics["restarted"].max() > 0.5
        assert out.metrics["restart_warning"] == expected


def test_partial_embeddings(case):
    books, settings = case
    codes = jax.random.randint(KEY, (2, 4, 2, 3), 0, 16)
    one_by_one = [rq.embed_partial(books, codes, i, "select", settings) for i in range(3)]
    for i in range(3):
        added = rq.embed_partial(books, codes, i, "add", settings)
        np.testing.assert_allclose(added, sum(one_by_one[: i + 1]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(added, rq.embed_codes(books, codes, settings), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="mode is 'sum'"):
        rq.embed_partial(books, codes, 0, "sum", settings)
    with pytest.raises(ValueError, match="depth index is 3"):
        rq.embed_partial(books, codes, 3, "add", settings)


@pytest.mark.parametrize("stochastic", [False, True])
def test_soft_codes_are_recomputed_from_residuals(case, z, stochastic):
    books, settings = case
    plain, codes = jax.jit(soft.soft_codes, static_argnums=(3, 5))(books, z, KEY, settings, 0.5, stochastic)
    for chunk in (1, 3):
        draw = jax.jit(soft.sample_codes, static_argnums=(3, 5, 6))
        again, residuals = draw(books, z, KEY, settings, 0.5, stochastic, chunk)
        np.testing.assert_array_equal(again, codes)
    x = rq.fold(z, settings)
    for depth in range(settings.depth):
        np.testing.assert_allclose(residuals[..., depth, :], x, rtol=1e-5, atol=1e-5)
        embed = np.asarray(rq.codebook_at(books, depth).embed)
        squared = jnp.sum((x[..., None, :] - embed) ** 2, axis=-1)
        np.testing.assert_allclose(plain[depth], jax.nn.softmax(-squared / 0.5), rtol=1e-3, atol=1e-6)
        x = x - embed[codes[..., depth]]
    if not stochastic:
        np.testing.assert_array_equal(codes, quantize(books, z, KEY, settings, False)[0].codes)


def test_drawn_codes_follow_the_distribution():
    books, settings = (
        make_books(5, dim=2),
        rq.ResidualSettings(depth=1, latent_shape=(64, 64, 2), code_shape=(64, 64), decay=(0.9,)),
    )
    z = jnp.broadcast_to(jnp.array([0.3, -0.2]), (2, 64, 64, 2))
    (expected,), codes = soft.soft_codes(books, z, KEY, settings, 2.0, True)
    share = np.bincount(codes.reshape(-1), minlength=5) / codes.size
    np.testing.assert_allclose(share, expected[0, 0, 0], atol=0.02)


def test_temperature_is_not_compiled_in(z):
    books = make_books(16)
    draw = jax.jit(lambda temperature: soft.sample_codes(books, z, KEY, SETTINGS, temperature, True, 4)[0])
    cold, hot = draw(jnp.float32(1e-3)), draw(jnp.float32(50.0))
    hard, _ = quantize(books, z, KEY, SETTINGS, False)
    np.testing.assert_array_equal(cold, hard.codes)
    assert (hot != hard.codes).mean() > 0.5
    assert draw._cache_size() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"code_shape": (3, 2)}, r"\(3, 2\) does not divide the latent grid \(8, 8\)"),
        ({"decay": (0.9, 0.9)}, "2 decays for depth 3"),
        ({"decay": (1.5,)}, "decay is"),
        ({"restart_threshold": -1.0}, "restart_threshold is -1"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes, message):
    SETTINGS.check()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes).check()
