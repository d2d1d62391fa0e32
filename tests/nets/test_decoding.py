"""The form that a TPU decodes in draws what the other one draws; tests/rq and tests/dq hold that one to the goldens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq import sample as dq_sample
from rqjax.mesh import make_mesh, platform
from rqjax.nets import decoding
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.rq import sample as rq_sample
from tests import small_dq, small_rq
from tests.dq.test_texts import TEXTS, made

KEY = jax.random.key(0)
DRAWS = {"greedy": Draw(temperature=0.0), "drawn": Draw(top_p=0.9)}


def forget():
    """Programs of one form must not serve the other."""
    rq_sample.generate.clear_cache()
    dq_sample.generate.clear_cache()


@pytest.fixture
def scanned(monkeypatch):
    def use():
        forget()
        monkeypatch.setattr(decoding, "platform", lambda: "tpu")

    yield use
    forget()


@pytest.fixture
def in_stretches(monkeypatch):
    def use():
        forget()
        monkeypatch.setattr(decoding, "CPU_STRETCH", 3)
        monkeypatch.setitem(decoding.STRETCHES, "cpu", 4)

    yield use
    forget()


def test_the_platform_is_that_of_the_mesh():
    assert platform() == jax.default_backend()
    with jax.set_mesh(make_mesh("8x1")):
        assert platform() == "cpu"
        assert jax.jit(lambda x: x if platform() == "cpu" else 2 * x)(1) == 1


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"classes": 0, "text_vocab": 7, "text_length": 4}, {"body_layers": 0}, {"head_layers": 0}],
    ids=["class", "text", "no body", "no head"],
)
def test_rq_codes_are_the_same(scanned, changes, draws):
    config = small_rq.small_config(**changes)
    model = small_rq.strong(config.init(jax.random.key(0)), 10.0)
    tokenizer = small_rq.tokenizer_with(small_rq.make_quantizer((16,), 8))
    labels = jnp.array([[1, 2, 3, 4], [6, 5, 0, 0]]) if "text_length" in changes else jnp.array([1, 4])
    expected = model.generate(tokenizer, labels, KEY, DRAWS[draws])
    scanned()
    found = model.generate(tokenizer, labels, KEY, DRAWS[draws])
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize(
    "changes", [{}, {"codebook_size": (16, 5, 9), "shared_cls_emb": False}, {"cumsum_depth_ctx": False}]
)
def test_a_small_head_and_a_large_one_draw_the_same(monkeypatch, changes, draws):
    """One program of a depth, or one for each depth, with guidance and some codes given."""
    model = small_rq.strong(small_rq.small_config(condition_dropout=0.1, **changes).init(jax.random.key(0)), 10.0)
    tokenizer = small_rq.tokenizer_with(small_rq.make_quantizer(model.config.sizes, 8))
    given = np.full((2, 2, 3, 3), -1)
    given[0, 0, 0], given[1, 0, 0] = (3, 4, 2), (1, 2, 0)
    more = {"guidance": Guidance(scale=1.5), "given": given}
    forget()
    looped = model.generate(tokenizer, jnp.array([1, 4]), KEY, DRAWS[draws], **more)
    monkeypatch.setattr(rq_sample, "SMALL_HEAD", 0)
    forget()
    np.testing.assert_array_equal(model.generate(tokenizer, jnp.array([1, 4]), KEY, DRAWS[draws], **more), looped)
    forget()


@pytest.mark.parametrize("guidance", [None, Guidance(scale=2.0)])
@pytest.mark.parametrize("grids", [(2, 4), (2, 4, 8)])
def test_dq_codes_are_the_same(scanned, grids, guidance):
    config = small_dq.small_config(grids=grids, block_size=80, dim=32, condition_dropout=0.1)
    model = small_dq.strong(config.init(jax.random.key(3)))
    draw = lambda: model.generate(None, jnp.arange(4) % 3, KEY, DRAWS["drawn"], guidance=guidance)  # noqa: E731
    expected = draw()
    scanned()
    found = draw()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert len(np.unique(expected.codes)) > 3


@pytest.mark.parametrize("guidance", [None, Guidance(scale=2.0)])
def test_dq_codes_of_texts_are_the_same(scanned, guidance):
    model = made(dim=32, content_layers=2, condition_dropout=0.1)
    draw = lambda: model.generate(None, TEXTS, KEY, DRAWS["drawn"], guidance=guidance)  # noqa: E731
    expected = draw()
    scanned()
    jax.tree.map(np.testing.assert_array_equal, draw(), expected)
    assert len(np.unique(expected.codes)) > 3


def test_a_stretch_reads_no_more_than_it_needs(scanned):
    assert decoding.stretches(64) == [(0, 64)]
    assert decoding.stretches(511) == [(0, 511)]
    assert decoding.stretches(513) == [(0, 256), (256, 513)]
    assert decoding.stretches(1026) == [(0, 513), (513, 1026)]
    scanned()
    assert decoding.stretches(64) == [(0, 16), (16, 32), (32, 48), (48, 64)]
    assert decoding.stretches(3) == [(0, 1), (1, 2), (2, 3)]
    assert decoding.stretches(10)[-1][1] == 10


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("guidance", [None, Guidance(scale=2.0)])
def test_dq_draws_the_same_from_caches_of_a_stretch_each(in_stretches, guidance, images):
    config = small_dq.small_config(grids=(2, 4), block_size=80, dim=32, condition_dropout=0.1)
    model, key = small_dq.strong(config.init(jax.random.key(3))), jax.random.key(4)
    draw = lambda: model.generate(None, jnp.arange(images) % 3, key, DRAWS["drawn"], guidance=guidance)  # noqa: E731
    expected = draw()
    assert jnp.max(jnp.sum(expected.grain, axis=(1, 2))) > 0  # long enough for a second stretch
    in_stretches()
    assert decoding.stretches(17)[0] == (0, 4)
    jax.tree.map(np.testing.assert_array_equal, draw(), expected)


def test_rq_draws_the_same_behind_a_text_from_caches_of_a_stretch_each(in_stretches):
    config = small_rq.small_config(classes=0, text_vocab=7, text_length=4)
    model = small_rq.strong(config.init(jax.random.key(0)), 10.0)
    tokenizer = small_rq.tokenizer_with(small_rq.make_quantizer((16,), 8))
    labels = jnp.array([[1, 2, 3, 4], [6, 5, 0, 0]])
    expected = model.generate(tokenizer, labels, KEY, DRAWS["drawn"])
    in_stretches()
    assert decoding.stretches(6) == [(0, 3), (3, 6)]
    np.testing.assert_array_equal(model.generate(tokenizer, labels, KEY, DRAWS["drawn"]), expected)


@pytest.mark.parametrize("changes", [{}, {"body_layers": 0}, {"qk_norm": True, "rope": True}])
def test_an_unrolled_prior_draws_the_same_and_has_no_layer_twice(changes):
    model = small_rq.strong(small_rq.small_config(**changes).init(jax.random.key(0)), 10.0)
    tokenizer, labels = small_rq.tokenizer_with(small_rq.make_quantizer((16,), 8)), jnp.array([1, 4])
    ready = decoding.unrolled(model)
    expected = model.generate(tokenizer, labels, KEY, DRAWS["drawn"])
    np.testing.assert_array_equal(ready.generate(tokenizer, labels, KEY, DRAWS["drawn"]), expected)
    assert sum(x.size for x in jax.tree.leaves(ready)) == sum(x.size for x in jax.tree.leaves(model))
    assert ready.footprint.row == model.footprint.row
    assert ready.footprint.layers == 0


@pytest.mark.parametrize("guidance", [None, Guidance(scale=2.0)])
def test_an_unrolled_prior_of_texts_draws_the_same(guidance):
    model = made(dim=32, content_layers=2, condition_dropout=0.1)
    expected = model.generate(None, TEXTS, KEY, DRAWS["drawn"], guidance=guidance)
    found = decoding.unrolled(model).generate(None, TEXTS, KEY, DRAWS["drawn"], guidance=guidance)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_tpu_draws_from_the_prior_itself(scanned):
    model = small_rq.small_config().init(jax.random.key(0))
    scanned()
    assert decoding.unrolled(model) is model
