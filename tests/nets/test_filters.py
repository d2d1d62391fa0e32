import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.mesh import make_mesh
from rqjax.nets.filters import filter_logits

VOCAB = 50


@pytest.fixture
def logits():
    return 3 * jax.random.normal(jax.random.key(0), (4, VOCAB))


def kept(logits, top_k=VOCAB, top_p=1.0):
    return np.isfinite(filter_logits(logits, 1.0, top_k, top_p))


def test_probabilities_equal_the_official_ones(golden):
    case = golden("rq/logit_filters")
    for i, settings in enumerate(case.meta["cases"]):
        top_k = settings["top_k"] or VOCAB
        top_p = 1.0 if settings["top_p"] is None else settings["top_p"]
        filtered = filter_logits(jnp.asarray(case.data["logits"]), settings["temperature"], top_k, top_p)
        np.testing.assert_allclose(jax.nn.softmax(filtered), case.data[f"probs_{i}"], rtol=1e-4, atol=1e-7)


def test_nothing_to_filter_changes_nothing(logits):
    np.testing.assert_array_equal(filter_logits(logits, 1.0, VOCAB, 1.0), logits)
    np.testing.assert_array_equal(filter_logits(logits, 1.0, VOCAB + 7, 2.0), logits)


def test_top_k_keeps_ties():
    np.testing.assert_array_equal(kept(jnp.array([[1.0, 3.0, 2.0, 2.0, 0.0]]), 2), [[False, True, True, True, False]])


def test_top_p_keeps_the_token_that_crosses_and_always_one():
    probabilities = jnp.log(jnp.array([[0.2, 0.5, 0.3]]))
    np.testing.assert_array_equal(kept(probabilities, top_p=0.49), [[False, True, False]])
    np.testing.assert_array_equal(kept(probabilities, top_p=0.6), [[False, True, True]])
    np.testing.assert_array_equal(kept(probabilities, top_p=0.0), [[False, True, False]])


def test_top_p_of_equal_logits_keeps_the_share():
    assert kept(jnp.zeros((1, 10)), top_p=0.45).sum() == 5


def test_top_p_acts_on_what_top_k_left():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))  # among the first two: 0.57, 0.43
    np.testing.assert_array_equal(kept(logits, 2, 0.56), [[True, False, False, False]])
    np.testing.assert_array_equal(kept(logits, 4, 0.56), [[True, True, False, False]])


def test_nan_is_not_kept():
    np.testing.assert_array_equal(kept(jnp.array([[jnp.nan, 0.0, 1.0]])), [[False, True, True]])


def test_settings_per_depth_equal_depth_by_depth(logits):
    logits = logits.reshape(2, 2, VOCAB)
    k, p, t = jnp.array([3, 20]), jnp.array([1.0, 0.5]), jnp.array([0.7, 1.3])
    together = filter_logits(logits, t, k, p)
    for d in range(2):
        np.testing.assert_array_equal(together[:, d], filter_logits(logits[:, d], t[d], k[d], p[d]))


def sorted_filter(logits, top_k, top_p):
    """The definition of filter_logits by a sort, in float64."""
    order = np.argsort(-logits, kind="stable")
    keep = logits >= logits[order[min(top_k, logits.size) - 1]]
    weights = np.where(keep, np.exp((logits - logits.max()).astype(np.float64)), 0)[order]
    before = (np.cumsum(weights) - weights) / weights.sum()
    within = np.empty(logits.size, bool)
    within[order] = (before < top_p) | (np.arange(logits.size) == 0)
    return keep & within if top_p < 1 else keep


@pytest.mark.parametrize("step", [0, 0.25, 2.0], ids=["distinct", "some equal", "many equal"])
def test_kept_sets_are_those_of_a_sort(step):
    """Of logits with and without equals, signs and zeros; p is never so near a sum that rounding could decide."""
    random = np.random.default_rng(0)
    for top_k, top_p in ((VOCAB, 0.9), (7, 1.0), (7, 0.5), (1, 0.9), (VOCAB, 1e-6), (40, 0.9999)):
        logits = np.float32(3 * random.standard_normal((20, VOCAB)))
        logits = np.round(logits / step) * step if step else logits
        logits[:, :3] = -np.inf, -0.0, 0.0
        expected = [sorted_filter(row, top_k, top_p) for row in logits]
        np.testing.assert_array_equal(kept(jnp.asarray(logits), top_k, top_p), expected)


def test_a_row_is_filtered_as_if_alone():
    """The search ends when all rows are settled; those that were so before have not moved."""
    rows = jnp.concatenate([3 * jax.random.normal(jax.random.key(1), (20, VOCAB)), jnp.zeros((1, VOCAB))])
    together = kept(rows, 7, 0.5)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(kept(row[None], 7, 0.5)[0], together[i])


def test_a_mesh_that_splits_rows_keeps_the_same_sets_and_asks_no_other_device():
    rows = 3 * jax.random.normal(jax.random.key(2), (8, VOCAB))

    @jax.jit
    def split(rows):
        return filter_logits(rows, 1.0, 7, 0.5)

    mesh = make_mesh("8x1")
    with jax.set_mesh(mesh):
        placed = jax.device_put(rows, jax.NamedSharding(mesh, jax.P("data")))
        program = split.lower(placed).compile()
        np.testing.assert_array_equal(np.isfinite(program(placed)), kept(rows, 7, 0.5))
    assert "all-reduce" not in program.as_text()
