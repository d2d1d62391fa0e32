"""A DQ-Transformer that is led by captions: each image reads its own, packed or alone, in training and in sampling."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rqjax import mesh as meshes
from rqjax.dq.packing import packed
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.nets.text_encoder import readable
from rqjax.official.convert import to_torch
from tests.conftest import assert_same_gradients, rounding, transformer_terms
from tests.dq.test_dqsampler import GREEDY, KEY, each, walk
from tests.small_dq import random_codes, small_config, strong

TEXTS = jnp.array([[3, 4, 0, 0], [0, 0, 0, 0], [6, 1, 2, 5], [4, 3, 0, 0]])
SHARES = [(1, 0), (0.5, 0.5), (0, 1), (0.7, 0.3)]
KEYS = pathlib.Path(__file__).parents[1] / "keys" / "dq" / "text_p6c18_derived_transformer.json"


def text_config(**changes):
    words = {"classes": 0, "text_vocab": 7, "text_length": 4, "text_dim": 8, "text_layers": 1, "text_heads": 2}
    return small_config(**words | changes)


def made(**changes):
    config = text_config(**changes)
    config.check()
    model = strong(config.init(jax.random.key(0)))

    def grow(path, x):  # so that captions decide something
        return 4 * x if "cross_" in jax.tree_util.keystr(path) and x.ndim > 2 else x

    return dataclasses.replace(model, network=jax.tree_util.tree_map_with_path(grow, model.network))


def changed(model, **changes):
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **changes))


def test_packed_losses_and_gradients_equal_those_of_padded_rows():
    model = made(pack_groups=2)
    codes = random_codes(model.config.layout, SHARES)

    def run(pack):
        chosen = changed(model, pack=pack)
        score = lambda n: chosen.with_trained(n).loss_from_codes(codes, TEXTS)  # noqa: E731
        return jax.jit(jax.value_and_grad(score, has_aux=True))(model.network)

    (expected, metrics), expected_grads = run(False)
    (found, packed_metrics), grads = run(True)
    terms = transformer_terms(layers=3, dim=16, tokens=int(model.rows(codes, TEXTS).filled.sum()))
    assert packed_metrics["unplaced"] == 0
    for name in metrics:
        if name not in ("padding", "unplaced"):
            np.testing.assert_allclose(packed_metrics[name], metrics[name], rtol=rounding(terms))
    np.testing.assert_allclose(found, expected, rtol=rounding(terms))
    assert_same_gradients(grads, expected_grads, terms)
    assert all(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(grads.text))


def test_another_caption_changes_the_logits_of_its_own_image_alone():
    """Three images in one row: which of the row's captions a token reads depends on whose token it is."""
    model = made()
    layout = model.config.layout
    codes = random_codes(layout, [(0.5, 0.5)] * 3)

    @jax.jit
    def logits(texts):
        rows, _ = packed(model.rows(codes, texts), layout, groups=1, row_length=60, rows_per_image=0.3)
        positions, contents = model.network(rows.tokens, rows.image, None, rows.texts)
        return rows, (model.network.position_head(positions), model.network.content_head(contents))

    rows, before = logits(TEXTS[:3])
    assert rows.image.shape[0] == 1
    assert set(np.unique(rows.image)) == {-1, 0, 1, 2}
    order = np.asarray(rows.texts)[0]  # longest first, so not the batch's
    for i in range(3):
        place = int(np.flatnonzero((order[:3] == np.asarray(TEXTS[i])).all(-1))[0])
        _, after = logits(TEXTS[:3].at[i].set(jnp.array([5, 2, 2, 0])))
        own = np.asarray(rows.image[:, :-1]) == place
        others = np.isin(np.asarray(rows.image[:, :-1]), [k for k in range(3) if k != place])
        for old, new in zip(before, after, strict=True):
            assert np.all(np.abs(np.asarray(new - old)[own]).max(-1) > 1e-3)
            np.testing.assert_array_equal(np.asarray(new)[others], np.asarray(old)[others])


def test_a_row_of_packed_images_holds_the_caption_of_each():
    model = made()
    layout = model.config.layout
    codes = random_codes(layout, [(1, 0)] * 5)
    texts = jnp.arange(1, 6)[:, None] * jnp.ones((1, 4), jnp.int32)
    rows, unplaced = packed(model.rows(codes, texts), layout, groups=1, row_length=24, rows_per_image=1.0)
    assert int(unplaced) == 0
    assert layout.shortest == 8
    assert rows.texts.shape == (len(rows.image), 3, 4)
    there = [text[0] for row in np.asarray(rows.texts) for text in row if text[0]]
    assert sorted(there) == [1, 2, 3, 4, 5]
    counts = [len({i for i in row if i >= 0}) for row in np.asarray(rows.image).tolist()]
    np.testing.assert_array_equal(counts, np.sum(np.asarray(rows.texts)[..., 0] > 0, 1))


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_greedy_tokens_are_the_likeliest_of_the_uncached_forward(scale):
    model = made(dim=32, condition_dropout=0.1)
    network, layout = model.network, model.config.layout
    rows, codes = model.generate_rows(TEXTS, KEY, GREEDY, guidance=Guidance(scale=scale))
    np.testing.assert_array_equal(rows.texts[:, 0], TEXTS)

    @jax.jit
    def forward(texts):
        outputs = network(rows.tokens, rows.image, None, texts[:, None])
        return network.position_head(outputs[0]), network.content_head(outputs[1])

    led, free = forward(TEXTS), forward(jnp.zeros_like(TEXTS))
    positions, contents = (np.asarray(a + scale * (b - a)) for a, b in zip(free, led, strict=True))
    checked = 0
    for i in range(4):
        row = each(rows, i)
        choices = walk(layout, row, each(codes, i), 0, True)
        for t in range(1, len(choices)):
            if choices[t] is not None:
                checked += len(choices[t]) > 1
                assert row.tokens.position[t] == choices[t][np.argmax(positions[i, t - 1, choices[t]])]
            if row.tokens.content[t] < layout.codebook_size:
                assert row.tokens.content[t] == np.argmax(contents[i, t - 1, : layout.codebook_size])
    assert checked > 3
    assert len(np.unique(codes.codes, axis=0)) > 2  # nothing but their captions tells the images apart


def test_what_is_drawn_depends_on_the_caption_and_not_on_the_others():
    model = made()
    keys = jax.random.split(KEY, 4)
    many = model.generate(None, TEXTS, keys, Draw())
    few = model.generate(None, TEXTS[2:], keys[2:], Draw())
    np.testing.assert_array_equal(many.codes[2:], few.codes)
    other = model.generate(None, TEXTS.at[2].set(jnp.array([1, 1, 1, 1])), keys, Draw())
    np.testing.assert_array_equal(np.any(np.asarray(many.codes != other.codes), (1, 2)), [False, False, True, False])


def test_codes_that_follow_from_their_captions_are_learnt_and_drawn():
    """Four images that nothing but their captions tells apart, two of which have the same words in another order."""
    model = text_config(dim=32, text_dim=16, pack=True).init(jax.random.key(0))
    codes, chain = random_codes(model.config.layout, [(0.5, 0.5)] * 4), optax.adam(3e-3)

    @jax.jit
    def step(network, state):
        score = lambda n: model.with_trained(n).loss_from_codes(codes, TEXTS)[0]  # noqa: E731
        loss, slopes = jax.value_and_grad(score)(network)
        updates, state = chain.update(slopes, state, network)
        return optax.apply_updates(network, updates), state, loss

    network, state = model.network, chain.init(model.network)
    for _ in range(300):
        network, state, loss = step(network, state)
    assert loss < 0.1
    drawn = model.with_trained(network).generate(None, TEXTS, KEY, GREEDY)
    jax.tree.map(np.testing.assert_array_equal, drawn, codes)


def test_captions_are_left_out_in_training_alone():
    model = made(condition_dropout=0.25)
    codes = random_codes(model.config.layout, [(0.5, 0.5)] * 64)
    texts = jnp.tile(TEXTS[2:3], (64, 1))
    np.testing.assert_array_equal(model.rows(codes, texts).texts[:, 0], texts)
    found = np.asarray(model.rows(codes, texts, jax.random.key(1)).texts[:, 0])
    empty = np.all(found == 0, axis=1)
    assert 4 < empty.sum() < 32  # 16 expected, with a deviation of 3.5
    np.testing.assert_array_equal(found[~empty], np.asarray(texts)[~empty])
    score = jax.jit(lambda key: model.loss_from_codes(codes, texts, key)[0])
    assert score(jax.random.key(0)) != score(jax.random.key(1))
    assert len(np.unique(model.rows(codes, texts).tokens.content[:, 0])) == 1  # one start token for all texts


def test_padding_is_not_read_and_an_empty_caption_is_a_token():
    np.testing.assert_array_equal(
        readable(TEXTS), np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]], bool)
    )
    network = made().network
    noise = jnp.arange(1.0, 3)[:, None] * jnp.arange(8) ** 2
    found = network.context(TEXTS[:, None], jnp.zeros((4, 1), jnp.int32))
    network.text.places = jax.tree.map(lambda x: x.at[2:].add(noise), network.text.places)
    moved = network.context(TEXTS[:, None], jnp.zeros((4, 1), jnp.int32))
    same = np.asarray(found.features == moved.features).all(-1)
    np.testing.assert_array_equal(same[:, :2], [[True, True], [True, True], [False, False], [True, True]])


def test_eight_devices_compute_what_one_does():
    """Rows over "data", heads over "model", those of cross-attention among them."""
    model = made(pack=True, pack_groups=0)
    codes, texts = random_codes(model.config.layout, SHARES * 2), jnp.concatenate([TEXTS, TEXTS[::-1]])

    def loss(network, codes, texts):
        return model.with_trained(network).loss_from_codes(codes, texts)[0]

    expected = jax.jit(jax.value_and_grad(loss))(model.network, codes, texts)
    mesh = meshes.make_mesh("4x2")
    places = meshes.shard_state(model.network, mesh, min_size=1)
    specs = {meshes.name_of(path): x.spec for path, x in jax.tree_util.tree_leaves_with_path(places)}
    assert specs["content_stack/blocks/cross_key/kernel"][2] == "model"
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        network = jax.device_put(model.network, places)
        found = jax.jit(jax.value_and_grad(loss))(network, *jax.device_put((codes, texts), by_rows))
    terms = transformer_terms(layers=3, dim=16, tokens=8 * model.config.layout.capacity)
    np.testing.assert_allclose(found[0], expected[0], rtol=rounding(terms))
    assert_same_gradients(found[1], expected[1], terms)


def test_the_transformer_has_the_arrays_of_the_derived_list():
    """Of the layers in the official code that its trainer of captions would have used: 384.5M parameters."""
    config = DQTransformerConfig(text_vocab=16384, text_length=32)
    network = jax.eval_shape(config.init, jax.random.key(0)).network
    blocks = network.content_stack.blocks
    names = {"ln1": "norm1", "ln2": "cross_norm", "ln3": "norm2", "mlp.0": "up", "mlp.2": "down"}
    names |= {f"attn.{name}": name for name in ("query", "key", "value", "proj")}
    names |= {f"cross_attn.{name}": f"cross_{name}" for name in ("query", "key", "value", "proj")}
    listed = json.loads(KEYS.read_text())
    first = {key: shape for key, shape in listed.items() if key.startswith("content_transformer.model.0.")}
    assert len(first) == 2 * len(names)
    for key, shape in first.items():
        name, _, leaf = key.removeprefix("content_transformer.model.0.").rpartition(".")
        layer = getattr(blocks, names[name])
        if leaf == "weight" and "ln" not in name:
            size = layer.kernel.shape[1:]
            inputs = 2 if name.endswith("proj") else 1
            assert shape == [int(np.prod(size[inputs:])), int(np.prod(size[:inputs]))], key
        else:
            array = layer.bias if leaf == "bias" else layer.scale
            assert shape == [int(np.prod(array.shape[1:]))], key
    own = sum(x.size for x in jax.tree.leaves(network)) - sum(x.size for x in jax.tree.leaves(network.text))
    assert own == sum(int(np.prod(shape)) for shape in listed.values()) == 384_529_408


def test_there_is_no_official_form():
    with pytest.raises(InputError, match="led by texts has no official form"):
        to_torch(made())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 3}, "classes=3 and text_vocab=7: at most one may be above 0"),
        ({"text_vocab": -1}, "classes=0 and text_vocab=-1"),
        ({"text_length": 0}, "text_length is 0"),
        ({"text_heads": 3}, "text_heads=3 does not divide text_dim=8"),
        ({"text_layers": -1}, "text_layers is -1"),
    ],
)
def test_configs_that_make_no_model_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        text_config(**changes).check()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (np.array([1, 2]), r"labels have shape \(2,\): this model expects \('b', 4\), texts"),
        (np.zeros((2, 5), np.int32), r"labels have shape \(2, 5\): this model expects \('b', 4\), texts"),
        (np.array([[7, 0, 0, 0]]), "token 7 is out of range: this model has 7, from 0 to 6"),
    ],
)
def test_what_is_no_text_is_refused(texts, message):
    with pytest.raises(InputError, match=message):
        made().generate(None, texts, KEY, Draw())


def test_guidance_needs_captions_that_were_left_out():
    with pytest.raises(InputError, match="trained with its text at all times"):
        made().generate(None, TEXTS, KEY, Draw(), guidance=Guidance(scale=2.0))
