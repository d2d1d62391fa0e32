import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rqjax.errors import InputError
from rqjax.mesh import make_mesh
from rqjax.nets.sampling import Draw
from rqjax.rq import sample
from tests.small_rq import CASES, load, logits_of, make_quantizer, random_codes, small_config, strong, tokenizer_with

GREEDY = Draw(temperature=0.0)
KEY = jax.random.key(0)


def generate(model, quantizer, labels, key, draws, given=None):
    return model.generate(tokenizer_with(quantizer), labels, key, draws, given=given)


def before(codes, start):
    """The codes before the position (row, column) `start`, and -1 from there on."""
    _, h, w, _ = codes.shape
    place = np.arange(h * w).reshape(h, w, 1)
    return np.where(place < start[0] * w + start[1], codes, -1)


@pytest.fixture(scope="module")
def model():
    return strong(small_config().init(jax.random.key(0)), 10.0)


@pytest.fixture(scope="module")
def books():
    return make_quantizer((16,), 8)


@pytest.mark.parametrize("name", CASES)
def test_greedy_codes_equal_the_official_ones(golden, name):
    case, model, books, labels = load(golden, name)
    np.testing.assert_array_equal(generate(model, books, labels, KEY, GREEDY), case.data["greedy_codes"])
    codes = np.asarray(case.data["codes"], np.int32)
    given = before(codes, (model.config.code_shape[0] // 2, 0))
    completed = generate(model, books, labels, KEY, GREEDY, given)
    np.testing.assert_array_equal(completed, case.data["greedy_completed_from_half"])


@pytest.mark.parametrize("text", [False, True])
def test_greedy_codes_are_the_argmax_of_the_uncached_forward(text):
    changes = {"classes": 0, "text_vocab": 7, "text_length": 4} if text else {}
    vocab = (16, 5, 9)
    config = small_config(codebook_size=vocab, shared_cls_emb=False, **changes)
    model, books = strong(config.init(jax.random.key(0)), 10.0), make_quantizer(vocab, 8)
    labels = jnp.array([[1, 2, 3, 4], [6, 5, 0, 0]]) if text else jnp.array([1, 4])
    codes = generate(model, books, labels, KEY, GREEDY)
    logits, _ = jax.jit(logits_of)(model, books, codes, labels)
    np.testing.assert_array_equal(codes, jnp.argmax(logits, -1))
    assert len(np.unique(codes)) > 3


def test_completion_keeps_what_is_given_and_draws_the_rest(model, books):
    labels, options = jnp.array([1, 4]), Draw(top_k=8)
    whole = generate(model, books, labels, KEY, options)
    compiled = sample.generate._cache_size()
    again = generate(model, books, labels, KEY, options, before(np.asarray(whole), (1, 1)))
    np.testing.assert_array_equal(again, whole)
    codes = np.asarray(random_codes((16,) * 3))
    first_depths = np.where(np.arange(3) < 2, codes, -1)
    unequal = np.concatenate([before(codes, (0, 2))[:1], before(codes, (1, 2))[1:]])
    for given in (before(codes, (1, 1)), first_depths, unequal):
        completed = np.asarray(generate(model, books, labels, KEY, options, given))
        np.testing.assert_array_equal(completed[given >= 0], given[given >= 0])
        assert not np.array_equal(completed[given < 0], codes[given < 0])
    assert sample.generate._cache_size() == compiled + 1  # whatever is given


def test_what_is_drawn_behind_given_codes_is_the_likeliest_after_them(model, books):
    labels, codes = jnp.array([1, 4]), np.asarray(random_codes((16,) * 3))
    given = np.where(np.arange(3) < 1, codes, -1)
    completed = generate(model, books, labels, KEY, GREEDY, given)
    likeliest = jnp.argmax(jax.jit(logits_of)(model, books, completed, labels)[0], -1)
    np.testing.assert_array_equal(completed[..., 1:], likeliest[..., 1:])


def test_a_row_does_not_depend_on_the_others(model, books):
    options = Draw(top_p=0.9)
    many = generate(model, books, jnp.array([1, 4, 0, 2]), KEY, options)
    few = generate(model, books, jnp.array([1, 4]), KEY, options)
    np.testing.assert_array_equal(many[:2], few)
    same = generate(model, books, jnp.array([3, 3, 3, 3]), KEY, options)
    assert not np.array_equal(same[0], same[1])


def test_eight_devices_draw_what_one_does(model, books):
    """Rows over "data", heads over "model"."""
    labels = jnp.arange(8) % 5
    expected = generate(model, books, labels, KEY, Draw(top_p=0.9))
    mesh = make_mesh("4x2")
    with jax.set_mesh(mesh):
        split = jax.device_put(labels, NamedSharding(mesh, PartitionSpec("data")))
        everywhere = jax.device_put((model, books, KEY), NamedSharding(mesh, PartitionSpec()))
        found = generate(*everywhere[:2], split, everywhere[2], Draw(top_p=0.9))
    np.testing.assert_array_equal(found, expected)


def test_new_options_compile_nothing(model, books):
    labels = jnp.array([1, 4, 2])
    generate(model, books, labels, KEY, Draw())
    before = sample.generate._cache_size()
    for options in (
        GREEDY,
        [Draw(temperature=0.5, top_k=1), Draw(top_k=4, top_p=0.9), Draw(temperature=2.0, top_k=16, top_p=0.5)],
    ):
        generate(model, books, labels, KEY, options)
    generate(model, books, labels, jax.random.key(1), Draw(top_k=2, top_p=0.3))
    assert sample.generate._cache_size() == before


def test_options_act_on_their_depth(model, books):
    labels = jnp.array([1, 4, 2])
    greedy = generate(model, books, labels, KEY, GREEDY)
    options = [Draw(temperature=3.0, top_k=1), *[Draw(temperature=3.0, top_k=16)] * 2]
    codes = generate(model, books, labels, KEY, options)
    np.testing.assert_array_equal(codes[:, 0, 0, 0], greedy[:, 0, 0, 0])
    assert not np.array_equal(codes[..., 1:], greedy[..., 1:])


def test_draws_follow_the_logits(model, books):
    """The first code's frequencies over many rows equal the softmax of the teacher-forced logits."""
    labels = jnp.full(2000, 2)
    codes = generate(model, books, labels, KEY, Draw())
    logits, _ = logits_of(model, books, codes[:1], labels[:1])
    expected = jax.nn.softmax(logits[0, 0, 0, 0])
    np.testing.assert_allclose(np.bincount(codes[:, 0, 0, 0], minlength=16) / 2000, expected, atol=0.04)


def test_bfloat16_greedy_codes_are_likely_without_caches(books):
    model = strong(small_config(dtype="bfloat16").init(jax.random.key(0)))
    labels = jnp.array([1, 4])
    codes = generate(model, books, labels, KEY, GREEDY)
    logits = np.asarray(jax.jit(logits_of)(model, books, codes, labels)[0])
    chosen = np.take_along_axis(logits, np.asarray(codes)[..., None], -1)[..., 0]
    assert np.all(chosen > logits.max(-1) - 0.2 * logits.std())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Draw(top_k=-1), "top_k of depth 1 is -1: expected at least 1, or 0"),
        ([Draw(), Draw(top_k=-2), Draw()], "top_k of depth 2 is -2"),
        (Draw(top_p=0.0), "top_p of depth 1 is 0.0"),
        (Draw(temperature=-1.0), "temperature of depth 1 is -1.0"),
        ([Draw(), Draw()], "2 settings of sampling: give one, or one for each of depth 1, depth 2, depth 3"),
    ],
)
def test_options_that_cannot_be_used_are_refused(model, books, options, message):
    with pytest.raises(InputError, match=message):
        generate(model, books, jnp.array([1]), KEY, options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": np.array([1, 5])}, "label 5 is out of range: this model has 5, from 0 to 4"),
        ({"labels": np.array([[1, 2]])}, "labels have shape"),
        ({"given": np.full((1, 2, 3, 3), 16)}, "code of depth 1 16 is out of range"),
        ({"given": np.full((1, 2, 3, 3), -2)}, "code of depth 1 -2 is out of range"),
        ({"given": np.zeros((1, 2, 2, 3), int)}, "codes have shape .1, 2, 2, 3.: expected .1, 2, 3, 3."),
        ({"given": np.where(np.arange(3) > 0, 1, -1) + np.zeros((1, 2, 3, 3), int)}, "no prefix: expected the first"),
        ({"given": -before(np.ones((1, 2, 3, 3), int), (1, 1))}, "no prefix: expected the first positions in raster"),
    ],
)
def test_arguments_out_of_range_are_refused(model, books, arguments, message):
    with pytest.raises(InputError, match=message):
        generate(model, books, **{"labels": np.array([1]), "key": KEY, "draws": Draw()} | arguments)
