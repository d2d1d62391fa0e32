import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rqjax import mesh as meshes
from rqjax.dq.packing import packed
from rqjax.dq.sequence import Rows, Tokens
from rqjax.errors import InputError
from rqjax.official.convert import import_model, to_torch
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.store.arrays import to_arrays
from tests.conftest import assert_same_gradients, rounding, transformer_terms
from tests.small_dq import logits_of, random_codes, small_config, strong, tokenizer_config

MIXED = {
    (2, 4): [(1, 0), (0.5, 0.5), (0, 1), (0.7, 0.3)],
    (2, 4, 8): [(1, 0, 0), (0.3, 0.4, 0.3), (0, 0, 1), (0, 1, 0)],
}


def changed(model, **changes):
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **changes))


@pytest.mark.parametrize("grids", MIXED)
def test_packed_losses_and_gradients_equal_those_of_padded_rows(grids):
    config = small_config(grids=grids, block_size=80, row_length=100, pack_groups=2)
    model = strong(config.init(jax.random.key(0)))
    codes, labels = random_codes(model.config.layout, MIXED[grids]), jnp.array([0, 2, 1, 1])

    def run(pack):
        chosen = changed(model, pack=pack)
        loss = lambda n: chosen.with_trained(n).loss_from_codes(codes, labels)  # noqa: E731
        # one gradient test is enough: compiling it is slow
        return jax.jit(jax.value_and_grad(loss, has_aux=True) if len(grids) == 2 else lambda n: (loss(n), ()))

    (expected, metrics), expected_grads = run(False)(model.network)
    (found, packed), grads = run(True)(model.network)
    terms = transformer_terms(layers=2, dim=16, tokens=int(model.rows(codes, labels).filled.sum()))
    np.testing.assert_allclose(found, expected, rtol=rounding(terms))
    for name in metrics:
        if name not in ("padding", "unplaced"):
            np.testing.assert_allclose(packed[name], metrics[name], rtol=rounding(terms))
    assert packed["unplaced"] == 0
    assert np.isfinite(expected)
    if len(grids) == 2:
        assert_same_gradients(grads, expected_grads, terms)


def test_the_loss_is_that_of_a_plain_definition():
    """Three grains: each image alone, its streams listed by hand, and losses pooled over the batch."""
    config = small_config(grids=(2, 4, 8), block_size=80, order="region-first", position_loss_weight=0.5)
    model = strong(config.init(jax.random.key(0)))
    layout, labels = model.config.layout, jnp.array([2, 0])
    codes = random_codes(layout, [(0.4, 0.3, 0.3), (0, 0.5, 0.5)], seed=3)
    logits = jax.jit(logits_of)(model, codes, labels)
    scores = [[], [], []], []
    for i in range(2):
        sequence = []
        for g, grid in enumerate(layout.grids):
            block, wide = 8 // grid, 8 // 2
            sequence.append((layout.position_start[g] + int(labels[i]), layout.content_start + int(labels[i]), g))
            for cell in layout.visited(g):
                y, x = cell // grid * block, cell % grid * block
                if codes.grain[i, y // wide, x // wide] == g:
                    sequence.append((int(cell), int(codes.codes[i, y, x]), g))
            sequence.append((layout.position_end[g], layout.content_end, g))
        for t, (position, content, g) in enumerate(sequence[1:]):
            scores[0][g].append(-jax.nn.log_softmax(logits[0][i, t])[position])
            scores[1].append(-jax.nn.log_softmax(logits[1][i, t])[content])
    loss, metrics = jax.jit(lambda m: m.loss_from_codes(codes, labels))(model)
    names = ["coarse_position_loss", "median_position_loss", "fine_position_loss"]
    by_grain = [np.mean(values) for values in scores[0]]
    np.testing.assert_allclose([metrics[name] for name in names], by_grain, rtol=1e-5)
    np.testing.assert_allclose(metrics["content_loss"], np.mean(scores[1]), rtol=1e-5)
    np.testing.assert_allclose(loss, 0.5 * np.mean(by_grain) + np.mean(scores[1]), rtol=1e-5)


def test_packing_leaves_little_of_the_rows_empty():
    """Two hundred images of all mixtures, in the layout of the published models: under a tenth is padding."""
    layout = small_config(grids=(16, 32), codebook_size=1024).layout
    fine = np.random.default_rng(0).integers(0, 257, 200)
    length = 256 + 3 * fine + 4
    slots = jnp.broadcast_to(jnp.arange(layout.capacity), (200, layout.capacity))
    sequences = Rows(tokens=Tokens(*[slots] * 4), image=jnp.where(slots < length[:, None], 0, -1))
    share = 1.05 * np.sum(length) / (200 * 2048)
    pack = lambda rows: packed(rows, layout, groups=1, row_length=2048, rows_per_image=share)  # noqa: E731
    rows, unplaced = jax.jit(pack)(sequences)
    assert int(unplaced) == 0
    assert np.sum(rows.image >= 0) == np.sum(length)
    assert np.mean(rows.image < 0) < 0.1
    assert 1 - np.mean(length) / layout.capacity > 0.3


def test_images_without_room_are_left_out_and_counted():
    config = small_config(pack=True, rows_per_image=0.25, row_length=20)
    model = strong(config.init(jax.random.key(0)))
    codes, labels = random_codes(model.config.layout, [(0, 1)] * 4), jnp.zeros(4, jnp.int32)
    loss, metrics = jax.jit(lambda m: m.loss_from_codes(codes, labels))(model)
    assert metrics["unplaced"] == 3
    alone = changed(model, pack=False)
    expected = alone.loss_from_codes(jax.tree.map(lambda x: x[:1], codes), labels[:1])[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    with pytest.raises(InputError, match="pack_groups=3 does not divide a batch of 4"):
        changed(model, pack_groups=3).loss_from_codes(codes, labels)


def test_only_weights_of_linear_layers_decay():
    config = small_config(grids=(2, 4, 8), block_size=80)
    network = jax.eval_shape(config.init, jax.random.key(0)).network
    names = [name for name in to_arrays({"network": network}) if config.decays(name)]
    linears = {name.split("/")[-2] for name in names}
    assert linears == {"query", "key", "value", "proj", "up", "down", "position_head", "content_head"}
    assert len(names) == 2 * 6 + 2


def test_dropout_acts_in_training_only():
    tokenizer = jax.jit(tokenizer_config().init)(jax.random.key(1))
    changes = {"dropout": 0.3, "embedding_dropout": 0.3, "attention_dropout": 0.3}
    config = small_config(grids=tokenizer.config.grids, codebook_size=16, block_size=80, **changes)
    config.check_tokenizer(tokenizer.config)
    model = strong(config.init(jax.random.key(0)))
    image, labels = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3), minval=-1), jnp.array([0, 2])
    batch = {"image": image, "label": labels}

    @functools.partial(jax.jit, static_argnums=1)
    def score(seed, train):
        return model.loss(tokenizer, batch, jax.random.key(seed), train)[0]

    assert score(0, False) == score(1, False)
    assert score(0, True) != score(1, True)
    codes = jax.jit(tokenizer.encode)(image)
    np.testing.assert_allclose(score(0, False), model.loss_from_codes(codes, labels)[0], rtol=1e-5)


def test_bfloat16_and_remat_compute_near_float32():
    model = strong(small_config().init(jax.random.key(0)), 2.0)
    other = strong(small_config(dtype="bfloat16", remat=True).init(jax.random.key(0)), 2.0)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(other.network))
    codes, labels = random_codes(model.config.layout, MIXED[2, 4]), jnp.array([0, 2, 1, 1])
    loss = lambda m, n: m.with_trained(n).loss_from_codes(codes, labels)[0]  # noqa: E731
    score = lambda m: jax.jit(jax.value_and_grad(lambda n: loss(m, n)))(m.network)  # noqa: E731
    (expected, _), (found, grads) = score(model), score(other)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grads))


def test_the_loss_falls_on_codes_with_structure():
    """Grains and codes that follow from the class alone: the prior must learn them almost exactly."""
    model = small_config(dim=32).init(jax.random.key(0))
    codes, labels = random_codes(model.config.layout, [(0.5, 0.5)] * 3), jnp.arange(3)
    chain = optax.adam(3e-3)

    @jax.jit
    def step(network, state):
        score = lambda n: model.with_trained(n).loss_from_codes(codes, labels)[0]  # noqa: E731
        loss, grads = jax.value_and_grad(score)(network)
        updates, state = chain.update(grads, state, network)
        return optax.apply_updates(network, updates), state, loss

    network, state = model.network, chain.init(model.network)
    losses = []
    for _ in range(200):
        network, state, loss = step(network, state)
        losses.append(float(loss))
    uniform = np.log(model.config.layout.position_sizes[-1]) + np.log(model.config.layout.content_size)
    assert losses[0] == pytest.approx(uniform, rel=0.1)
    assert losses[-1] < 0.2


def test_eight_devices_compute_what_one_does():
    """Rows over "data", heads over "model"; each shard's images are packed on their own."""
    config = small_config(pack=True, pack_groups=0)
    model = strong(config.init(jax.random.key(0)))
    codes, labels = random_codes(model.config.layout, MIXED[2, 4] * 2), jnp.arange(8) % 3

    def loss(network, codes, labels):
        return model.with_trained(network).loss_from_codes(codes, labels)[0]

    expected = jax.jit(jax.value_and_grad(loss))(model.network, codes, labels)
    mesh = meshes.make_mesh("4x2")
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731
    network = jax.device_put(model.network, place())
    kernel = model.network.content_stack.blocks.query.kernel
    network.content_stack.blocks.query.kernel = jax.device_put(kernel, place(None, None, "model"))
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss))(network, *jax.device_put((codes, labels), place("data")))
        with pytest.raises(InputError, match="pack_groups=2 for 4 data shards"):
            changed(model.with_trained(network), pack_groups=2).loss_from_codes(codes, labels)
    terms = transformer_terms(layers=2, dim=16, tokens=8 * model.config.layout.capacity)
    np.testing.assert_allclose(found[0], expected[0], rtol=rounding(terms))
    assert_same_gradients(found[1], expected[1], terms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": (2, 6)}, "grids .2, 6. do not double"),
        ({"order": "column-first"}, "order is 'column-first'"),
        ({"heads": 3}, "heads=3 does not divide dim=16"),
        ({"block_size": 18}, "block_size is 18: an image can take 19 tokens"),
        ({"pack": True, "row_length": 19}, "row_length is 19: an image can take 20 tokens"),
        ({"pack": True, "rows_per_image": 0.0}, "rows_per_image is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"content_layers": 0}, "content_layers is 0"),
        ({"content_loss_weight": -1.0}, "content_loss_weight is -1.0"),
        ({"classes": -1}, "classes is -1"),
    ],
)
def test_configs_that_make_no_model_are_refused(changes, message):
    small_config().check()
    with pytest.raises(InputError, match=message):
        small_config(**changes).check()


def test_a_tokenizer_of_other_codes_is_refused():
    tokenizer = tokenizer_config()
    with pytest.raises(InputError, match=r"the prior's grids are .2, 4., the tokenizer has .4, 8."):
        small_config(grids=(2, 4), codebook_size=tokenizer.codebook_size).check_tokenizer(tokenizer)
    with pytest.raises(InputError, match="a DQTransformerConfig with an RQVAEConfig: expected a DQVAEConfig"):
        small_config().check_tokenizer(RQVAEConfig())
    with pytest.raises(InputError, match="the prior's codebook_size is 7 with special codes from there on"):
        small_config(grids=tokenizer.grids, codebook_size=7).check_tokenizer(tokenizer)


def test_a_third_grain_survives_the_round_trip():
    config = small_config(grids=(2, 4, 8), block_size=80)
    model = jax.jit(config.init)(jax.random.key(0))
    state_dict = to_torch(model)
    names = [f"transformer.content_{name}_pos_emb.weight" for name in ("coarse", "median", "fine")]
    assert [state_dict[name].shape for name in names] == [(9, 16), (21, 16), (69, 16)]
    jax.tree.map(np.testing.assert_array_equal, import_model(state_dict, config), model)
