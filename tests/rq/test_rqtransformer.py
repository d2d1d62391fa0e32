import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rqjax.errors import InputError
from rqjax.nets import cross_entropy
from tests.conftest import assert_same_gradients, rounding, transformer_terms
from tests.small_rq import logits_of, make_quantizer, random_codes, small_config, strong, tokenizer_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": (16, 8)}, "codebook_size has 2 sizes for depth 3"),
        ({"body_heads": 5}, "body_heads=5 does not divide dim=32"),
        ({"text_vocab": 9, "text_length": 4}, "classes=5 and text_vocab=9"),
        ({"classes": 0, "text_vocab": 9, "text_length": 1}, "text_length is 1"),
        ({"target": "softest"}, "target is 'softest'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"loss_chunk": 0}, "loss_chunk is 0"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_configs_that_make_no_model_are_refused(changes, message):
    small_config().check()
    with pytest.raises(InputError, match=message):
        small_config(**changes).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": (32,)}, "codebook_size is .16, 16, 16., the tokenizer has .32, 32, 32."),
        ({"depth": 4}, "depth is 3, the tokenizer has 4"),
        ({"code_shape": (2, 2)}, "code_shape is .4, 4., the tokenizer has .2, 2."),
        ({"embed_dim": 16}, "input_dim is 8, the tokenizer has 16"),
    ],
)
def test_a_tokenizer_of_other_codes_is_refused(changes, message):
    config = small_config(code_shape=(4, 4))
    config.check_tokenizer(tokenizer_config())
    with pytest.raises(InputError, match=message):
        config.check_tokenizer(tokenizer_config(**changes))


@pytest.mark.parametrize("shared_cls_emb", [False, True])
def test_codes_that_a_depth_does_not_have_get_no_probability(shared_cls_emb):
    vocab = (16, 5, 9)
    own = {"input_emb_vqvae": False, "head_emb_vqvae": False, "shared_tok_emb": False}
    model = strong(small_config(codebook_size=vocab, shared_cls_emb=shared_cls_emb, **own).init(jax.random.key(0)))
    books, codes, labels = make_quantizer(vocab, 8), random_codes(vocab), jnp.zeros(2, jnp.int32)
    probability = jax.nn.softmax(jax.jit(logits_of)(model, books, codes, labels)[0])
    for d, size in enumerate(vocab):
        assert np.all(np.asarray(probability[..., d, size:]) == 0)
        assert np.all(np.asarray(probability[..., d, :size]) > 0)

    if not shared_cls_emb:
        grad = jax.jit(
            jax.value_and_grad(lambda network: model.with_trained(network).loss_from_codes(books, codes, labels)[0])
        )
        value, grads = grad(model.network)
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grads))
        assert grads.tok_emb.embedding.shape == (30, 32)


def test_codebook_vectors_of_every_depth_are_used():
    """Separate codebooks of different sizes: the input is the sum of each depth's own vectors, its bias D times."""
    vocab = (16, 5, 9)
    model = small_config(codebook_size=vocab).init(jax.random.key(0))
    books, codes = make_quantizer(vocab, 8), random_codes(vocab)[:, 0]
    layer = model.network.input_mlp
    layer.bias = layer.bias + 1.0
    vectors = np.stack([books.codebooks[d].embed[codes[..., d]] for d in range(3)], -2)
    expected = vectors.sum(-2) @ np.asarray(layer.kernel) + 3.0
    np.testing.assert_allclose(model.network.tokens(codes, model.network.vectors(books, codes)), expected, atol=1e-5)
    context = model.network.context(codes[..., :2], model.network.vectors(books, codes[..., :2]))
    expected = np.cumsum(vectors[..., :2, :], -2) @ np.asarray(model.network.head_mlp.kernel)
    np.testing.assert_allclose(context, expected, atol=1e-5)


def test_no_logit_sees_its_own_code_or_a_later_one():
    model = strong(small_config().init(jax.random.key(0)))
    books, codes, labels = make_quantizer((16,), 8), random_codes((16,) * 3), jnp.array([1, 4])
    run = jax.jit(logits_of)
    before, after = run(model, books, codes, labels)[0], run(model, books, codes.at[:, 1, 0, 1].add(1) % 16, labels)[0]
    same = np.isclose(before, after, atol=1e-6).all((0, -1))
    np.testing.assert_array_equal(same[0], True)
    np.testing.assert_array_equal(same[1, 0], [True, True, False])
    assert not same[1, 1:].any()


def test_labels_matter_only_to_a_conditional_model():
    codes, books = random_codes((16,) * 3), make_quantizer((16,), 8)
    for classes, differs in [(5, True), (0, False)]:
        model = strong(small_config(classes=classes).init(jax.random.key(0)))
        one, two = (logits_of(model, books, codes, jnp.full(2, label))[0] for label in (1, 3))
        assert np.allclose(one, two) != differs


@pytest.mark.parametrize("codes", [(16,), (16, 5, 9)])
def test_the_chunked_soft_loss_equals_the_plain_one(codes):
    tokenizer = tokenizer_config(codebook_size=codes).init(jax.random.key(1))
    config = small_config(code_shape=(4, 4), codebook_size=codes, loss_chunk=5)
    model = strong(config.init(jax.random.key(0)))
    image = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3), minval=-1, maxval=1)
    labels, key = jnp.array([0, 3]), jax.random.key(3)
    draw, drop = jax.random.split(key)
    drawn, residuals = tokenizer.sample_codes(image, draw, 0.5, True)

    def plain(network):
        flat = drawn.reshape(2, 16, 3)
        _, outputs = network(model.condition.ids(labels), flat, tokenizer.quantizer, drop)
        logp = jax.nn.log_softmax(network.classifier(outputs))
        losses = []
        for d, size in enumerate(config.sizes):
            book = tokenizer.quantizer.codebooks[d if len(codes) > 1 else 0].embed
            distance = jnp.sum((residuals[..., d, None, :] - book) ** 2, -1).reshape(2, 16, size)
            losses.append(-jnp.sum(jax.nn.softmax(-distance / 0.5) * logp[:, :, d, :size], -1))
        return jnp.mean(jnp.stack(losses))

    def chunked(network):
        return model.with_trained(network).loss(tokenizer, {"image": image, "label": labels}, key, train=True)[0]

    expected, expected_grads = jax.jit(jax.value_and_grad(plain))(model.network)
    found, grads = jax.jit(jax.value_and_grad(chunked))(model.network)
    terms = transformer_terms(layers=4, dim=32, tokens=2 * 16 * 3)
    np.testing.assert_allclose(found, expected, rtol=rounding(terms))
    assert_same_gradients(grads, expected_grads, terms)


def largest_float(jaxpr) -> int:
    """Elements of the largest floating array that any equation makes, inner programs included."""
    largest = 0
    for equation in jaxpr.eqns:
        sizes = [v.aval.size for v in equation.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)]
        largest = max(largest, *sizes, 0)
        for inner in jax.core.jaxprs_in_params(equation.params):
            largest = max(largest, largest_float(inner))
    return largest


def test_neither_logits_nor_targets_are_ever_whole():
    """The largest array of the gradient of the loss has the size of one chunk, as the batch has many."""
    config = small_config(code_shape=(4, 4), codebook_size=(4096,), dim=16, input_dim=8, loss_chunk=2)
    tokenizer = jax.eval_shape(tokenizer_config(codebook_size=(4096,)).init, jax.random.key(0))
    model = jax.eval_shape(config.init, jax.random.key(0))
    image, labels = jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)

    def size(loss_chunk):
        chunked = dataclasses.replace(model, config=dataclasses.replace(config, loss_chunk=loss_chunk))

        def loss(network, tokenizer, image, labels, key):
            return chunked.with_trained(network).loss(tokenizer, {"image": image, "label": labels}, key, True)[0]

        arguments = (model.network, tokenizer, image, labels, jax.random.key(0))
        return largest_float(jax.make_jaxpr(jax.value_and_grad(loss))(*arguments).jaxpr)

    whole = 8 * 16 * 3 * 4096
    assert size(16) >= whole
    assert size(2) <= whole / 8


def test_hard_targets_are_the_nearest_codes():
    tokenizer = tokenizer_config().init(jax.random.key(1))
    model = strong(small_config(code_shape=(4, 4), target="hard", stochastic=False).init(jax.random.key(0)))
    image = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3), minval=-1, maxval=1)
    labels = jnp.array([0, 3])
    found = model.loss(tokenizer, {"image": image, "label": labels}, jax.random.key(3), train=False)[0]
    codes = tokenizer.encode(image)
    expected = cross_entropy.hard(logits_of(model, tokenizer.quantizer, codes, labels)[0], codes).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dropout_acts_in_training_only():
    tokenizer = tokenizer_config().init(jax.random.key(1))
    config = small_config(code_shape=(4, 4), target="hard", stochastic=False, dropout=0.3, embedding_dropout=0.3)
    model = strong(config.init(jax.random.key(0)))
    batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.array([0, 3])}
    loss = lambda key, train: float(model.loss(tokenizer, batch, jax.random.key(key), train)[0])  # noqa: E731
    assert loss(0, False) == loss(1, False)
    assert loss(0, True) != loss(1, True)


def test_bfloat16_computes_near_float32_and_keeps_parameters():
    model = strong(small_config().init(jax.random.key(0)))
    other = strong(small_config(dtype="bfloat16").init(jax.random.key(0)))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(other.network))
    books, codes, labels = make_quantizer((16,), 8), random_codes((16,) * 3), jnp.array([1, 4])
    expected, found = (jax.nn.log_softmax(logits_of(m, books, codes, labels)[0]) for m in (model, other))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_the_loss_falls_on_codes_with_structure():
    """Codes that follow from the class alone: the prior must learn them almost exactly."""
    model = small_config(target="hard").init(jax.random.key(0))
    books = make_quantizer((16,), 8)
    labels = jnp.arange(5)
    codes = random_codes((16,) * 3, (5, 2, 3))
    chain = optax.adam(3e-3)

    @jax.jit
    def step(network, state):
        score = lambda network: model.with_trained(network).loss_from_codes(books, codes, labels)[0]  # noqa: E731
        loss, grads = jax.value_and_grad(score)(network)
        updates, state = chain.update(grads, state, network)
        return optax.apply_updates(network, updates), state, loss

    network, state = model.network, chain.init(model.network)
    losses = []
    for _ in range(150):
        network, state, loss = step(network, state)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(16), rel=0.1)
    assert losses[-1] < 0.1


def test_eight_devices_compute_what_one_does():
    from jax.sharding import NamedSharding, PartitionSpec

    from rqjax import mesh as meshes

    tokenizer = tokenizer_config().init(jax.random.key(1))
    model = strong(small_config(code_shape=(4, 4)).init(jax.random.key(0)))
    image = jax.random.uniform(jax.random.key(2), (8, 8, 8, 3), minval=-1, maxval=1)
    labels = jnp.arange(8) % 5

    def loss(network, tokenizer, image, labels):
        batch = {"image": image, "label": labels}
        return model.with_trained(network).loss(tokenizer, batch, jax.random.key(3), train=True)[0]

    expected = jax.jit(jax.value_and_grad(loss))(model.network, tokenizer, image, labels)
    mesh = meshes.make_mesh("4x2")
    rows = NamedSharding(mesh, PartitionSpec("data"))
    split = NamedSharding(mesh, PartitionSpec(None, None, "model"))
    network = jax.device_put(model.network, NamedSharding(mesh, PartitionSpec()))
    network.body.blocks.query.kernel = jax.device_put(model.network.body.blocks.query.kernel, split)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss))(
            network, tokenizer, jax.device_put(image, rows), jax.device_put(labels, rows)
        )
    terms = transformer_terms(layers=4, dim=32, tokens=8 * 16 * 3)
    np.testing.assert_allclose(found[0], expected[0], rtol=rounding(terms))
    assert_same_gradients(found[1], expected[1], terms)
