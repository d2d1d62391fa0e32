import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rqjax.nets.decoding import decode, empty_caches, layers_of, lengthened, prefill
from rqjax.nets.transformer import Block, BlockSettings, Stack
from tests.conftest import assert_same_gradients, transformer_terms


def make_stack(*, layers: int = 3, dim: int = 32, remat: bool = False, **block) -> Stack:
    settings = BlockSettings(**block)
    return perturbed(Stack(layers=layers, dim=dim, heads=4, block=settings, remat=remat, rngs=nnx.Rngs(0)))


def perturbed(tree):
    """Away from the initialisation, where attention is nearly uniform and biases are zero."""
    keys = iter(jax.random.split(jax.random.key(5), 100))
    return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), tree)


def blocks_of(stack: Stack) -> list[Block]:
    return [jax.tree.map(lambda x, i=i: x[i], stack.blocks) for i in range(stack.layers)]


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (2, 7, 32))


def test_scan_equals_the_layers_one_by_one(x):
    stack = make_stack()
    y, mask = x, jnp.tril(jnp.ones((1, 7, 7), bool))
    for block in blocks_of(stack):
        y = block(y, mask)
    np.testing.assert_allclose(stack(x), y, atol=1e-5, rtol=1e-5)


def test_initialisation_is_the_spec():
    stack = Stack(layers=2, dim=64, heads=4, block=BlockSettings(), remat=False, rngs=nnx.Rngs(0))
    assert sum(x.size for x in jax.tree.leaves(stack)) == 2 * (12 * 64**2 + 13 * 64)
    block = stack.blocks
    for layer in (block.query, block.key, block.value, block.proj, block.up, block.down):
        assert np.std(layer.kernel) == pytest.approx(0.02, rel=0.05)
        assert not np.any(layer.bias)
    assert np.all(np.asarray(block.norm1.scale) == 1)
    assert not np.allclose(block.query.kernel[0], block.query.kernel[1])


def test_no_position_sees_the_future(x):
    stack = make_stack()
    changed = stack(x.at[:, 4:].add(1.0))
    np.testing.assert_array_equal(changed[:, :4], stack(x)[:, :4])
    assert not np.allclose(changed[:, 4], stack(x)[:, 4])


def test_packed_segments_do_not_see_each_other(x):
    stack = make_stack()
    segment = jnp.array([[0, 0, 0, 1, 1, 1, 1]])
    y = stack(x, mask=segment[:, :, None] == segment[:, None, :])
    np.testing.assert_allclose(y[:, 3:], stack(x[:, 3:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keep_products", [False, True])
def test_rematerialisation_changes_no_gradient(x, keep_products):
    plain, other = make_stack(dropout=0.2), make_stack(dropout=0.2, remat=True, keep_products=keep_products)
    grad = jax.jit(jax.grad(lambda stack: jnp.sum(stack(x, jax.random.key(0)) ** 2)))
    assert_same_gradients(grad(other), grad(plain), transformer_terms(layers=3, dim=32, tokens=2 * 7))


def test_kept_products_are_what_one_layer_holds(x):
    """Of each token the input, queries, keys, values, what attention and the MLP's first product gave: in widths of the
    stack 1 + 3 + 1 + 4. With all activations it is three times as much, with none the input alone.
    """

    def widths(**options):
        stack = make_stack(dropout=0.2, **options)
        _, backward = jax.vjp(lambda stack: stack(x, jax.random.key(0)), stack)
        own = {leaf.shape for leaf in jax.tree.leaves(stack)}
        floats = [y for y in jax.tree.leaves(backward) if y.dtype == jnp.float32 and y.shape not in own]
        return sum(y.size for y in floats if y.shape[:3] == (stack.layers, *x.shape[:2])) / (stack.layers * x.size)

    assert widths(remat=True) == 1
    assert widths(remat=True, keep_products=True) == 9
    assert widths() > 25


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "rope": (1, 2, 3)}, {"sigmoid_gelu": True}])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("ends", [(7,), (3, 5, 7)])
def test_prefill_then_decode_equals_the_whole(x, options, images, ends):
    """Of a lone image too, whose heads lie in two rows of the cache, and over caches of a stretch each."""
    stack, x = make_stack(**options), x[:images]
    layers, caches = layers_of(stack), empty_caches(stack, images, 7, ends[0])
    assert caches[0][0].keys.shape[:2] == {1: (2, 2), 2: (2, 4)}[images]
    y, caches = prefill(layers, x[:, :3], caches)
    parts = [y]
    for i in range(3, 7):
        caches = lengthened(stack, caches, min(end for end in ends if end > i))
        y, caches = decode(layers, x[:, i : i + 1], caches, jnp.array(i), visible=i + 1)
        parts.append(y)
    assert [cache.length for cache in caches[0]] == list(np.diff(ends, prepend=0))
    np.testing.assert_allclose(jnp.concatenate(parts, 1), stack(x), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_near_float32(x):
    expected, found = make_stack()(x), make_stack(dtype=jnp.bfloat16)(x)
    assert found.dtype == jnp.bfloat16
    assert float(jnp.linalg.norm(found.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)) < 0.03


@pytest.mark.parametrize("sigmoid_gelu", [False, True])
def test_the_two_gelus(sigmoid_gelu):
    """With the attention's output silenced, the layer is x + down(gelu(up(norm(x))))."""
    block = blocks_of(make_stack(layers=1, sigmoid_gelu=sigmoid_gelu))[0]
    block.proj.kernel, block.proj.bias = jnp.zeros_like(block.proj.kernel), jnp.zeros_like(block.proj.bias)
    x = jax.random.normal(jax.random.key(2), (1, 1, 32))
    y = np.asarray(block.up(block.norm2(x)), np.float64)
    y = y / (1 + np.exp(-1.702 * y)) if sigmoid_gelu else y * 0.5 * (1 + np.vectorize(math.erf)(y / 2**0.5))
    expected = x + block.down(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(block(x, jnp.ones((1, 1, 1), bool)), expected, atol=1e-5)


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_both_dropouts_act_in_training_only(x, rates):
    plain, stack = make_stack(), make_stack(**rates)
    np.testing.assert_array_equal(stack(x), plain(x))
    assert not np.allclose(stack(x, jax.random.key(0)), plain(x))
    assert not np.allclose(stack(x, jax.random.key(0)), stack(x, jax.random.key(1)))


def test_the_program_does_not_grow_with_layers(x):
    def size(layers: int) -> int:
        grad = jax.grad(lambda stack: jnp.sum(stack(x, jax.random.key(0))))
        return len(jax.jit(grad).lower(jax.eval_shape(lambda: make_stack(layers=layers, dropout=0.1))).as_text())

    assert size(20) < 1.05 * size(4)
