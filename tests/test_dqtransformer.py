import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_digests, noise_keys
from jax.sharding import NamedSharding, PartitionSpec
from test_dqvae import small as tokenizer_config

from rqjax import mesh as meshes
from rqjax import optim
from rqjax.arrays import to_arrays
from rqjax.errors import InputError
from rqjax.models import dqloss
from rqjax.models.dqtransformer import DQTransformerConfig
from rqjax.pytorch import file
from rqjax.pytorch.dqtransformer import (
    dqtransformer_config,
    dqtransformer_from_torch,
    dqtransformer_keys,
    dqtransformer_to_torch,
)
from rqjax.quantize.dynamic import Codes

KEYS = pathlib.Path(__file__).parent / "keys" / "dq"
CASES = ("class", "unconditional")


def small_config(**changes) -> DQTransformerConfig:
    config = DQTransformerConfig(
        grids=(2, 4),
        codebook_size=8,
        classes=3,
        order="row-first",
        dim=16,
        heads=2,
        position_layers=1,
        content_layers=1,
        block_size=24,
        embedding_dropout=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        dtype="float32",
        remat=False,
        pack=False,
        row_length=40,
        rows_per_image=1.0,
        pack_groups=1,
        loss_chunk=7,
        position_loss_weight=1.0,
        content_loss_weight=1.0,
    )
    return dataclasses.replace(config, **changes)


def strong(model, scale=8.0):
    """A model whose weights are large enough for every part to matter, places included."""

    def grow(path, x):
        if "pos_emb" in jax.tree_util.keystr(path):
            return jax.random.normal(jax.random.key(7), x.shape)
        return scale * x if x.ndim > 1 else x

    return dataclasses.replace(model, network=jax.tree_util.tree_map_with_path(grow, model.network))


def random_codes(layout, shares, seed=0):
    """Images in which about these shares of the regions are of each grain, in the form that tokenizers give them."""
    draw, fine = np.random.default_rng(seed), layout.grids[-1]
    images = []
    for share in shares:
        grain = draw.choice(len(layout.grids), (layout.grids[0],) * 2, p=share)
        codes = np.zeros((fine, fine), np.int32)
        whole = grain.repeat(fine // layout.grids[0], 0).repeat(fine // layout.grids[0], 1)
        for g, grid in enumerate(layout.grids):
            own = draw.integers(0, layout.codebook_size, (grid, grid)).repeat(fine // grid, 0).repeat(fine // grid, 1)
            codes = np.where(whole == g, own, codes)
        images.append((codes, grain))
    codes, grain = (np.stack(x) for x in zip(*images, strict=True))
    return Codes(codes=jnp.asarray(codes, jnp.int32), grain=jnp.asarray(grain, jnp.int32))


def load(golden, name):
    """A golden case, and our model of it."""
    case = golden(f"dq/dqtransformer_{name}")
    meta = case.meta
    config = small_config(
        grids=(meta["coarse_hw"], meta["fine_hw"]),
        codebook_size=meta["codebook_size"],
        classes=meta["n_classes"],
        order=meta["order"],
        dim=meta["n_embd"],
        heads=meta["n_head"],
        position_layers=meta["position_layer"],
        content_layers=meta["content_layer"],
        block_size=meta["param_shapes"]["pos_emb"][1],
        row_length=160,
        loss_chunk=32,
    )
    config.check()
    return case, config, dqtransformer_from_torch(case.state_dict(), config)


def images(case):
    """The single images of a case in one batch."""
    count = len(case.meta["fine_fractions"])
    field = lambda name: jnp.concatenate([jnp.asarray(case.data[f"{name}_{i}"], jnp.int32) for i in range(count)])  # noqa: E731
    return Codes(codes=field("codes"), grain=field("grain")), field("label")


def batch(case, name):
    codes, grain, labels = (jnp.asarray(case.data[f"{name}_{part}"], jnp.int32) for part in ("codes", "grain", "label"))
    return Codes(codes=codes, grain=grain), labels


@pytest.mark.parametrize("name", CASES)
def test_images_of_different_lengths_keep_their_official_logits_in_one_batch(golden, name):
    case, _, model = load(golden, name)
    codes, labels = images(case)
    found = jax.jit(model.logits.__func__)(model, codes, labels)
    for i in range(len(labels)):
        for kind, logits in zip(("position", "content"), found, strict=True):
            expected = case.data[f"{kind}_logits_{i}"][0]
            np.testing.assert_allclose(logits[i, : len(expected)], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_packed_images_keep_their_official_logits(golden, name):
    case, _config, model = load(golden, name)
    codes, labels = images(case)
    model = dataclasses.replace(model, pack=True)
    network = model.network

    @jax.jit
    def run(codes, labels):
        rows = dqloss.to_rows(model, codes, labels)
        outputs = network(rows.content, rows.position, rows.grain, rows.index, rows.image)
        return rows, network.position_head(outputs[0]), network.content_head(outputs[1])

    rows, *found = run(codes, labels)
    assert len(np.unique(rows.image[0])) > 2  # several images share a row
    assert int(rows.unplaced) == 0
    for i in range(len(labels)):
        row, slot = np.nonzero(np.asarray(rows.image) == i)
        for kind, logits in zip(("position", "content"), found, strict=True):
            expected = case.data[f"{kind}_logits_{i}"][0]
            np.testing.assert_array_equal(rows.index[row, slot], np.arange(len(expected) + 1))
            np.testing.assert_allclose(logits[row[:-1], slot[:-1]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_single_images_equal_the_official_ones(golden, name):
    case, _, model = load(golden, name)
    codes, labels = images(case)
    run = jax.jit(lambda codes, label: model.loss_from_codes(model.network, codes, label)[1])
    for i, expected in enumerate(case.meta["losses_batch_of_one"]):
        metrics = run(jax.tree.map(lambda x, i=i: x[i : i + 1], codes), labels[i : i + 1])
        for key, value in expected.items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_three_steps_equal_the_official_ones(golden, name):
    case, config, model = load(golden, name)
    adamw, noise = case.meta["adamw"], noise_keys(case.meta["grad_digest"])

    @jax.jit
    def value_and_grad(network, codes, labels):
        return jax.value_and_grad(lambda n: model.loss_from_codes(n, codes, labels), has_aux=True)(network)

    def tensors(network):
        state_dict = dqtransformer_to_torch(dataclasses.replace(model, network=network))
        return {key.removeprefix("transformer."): x for key, x in state_dict.items() if not callable(x)}

    (_, metrics), grads = value_and_grad(model.network, *batch(case, "batch"))
    for key, value in case.meta["batch_losses"].items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-4)
    assert_digests(tensors(grads), case.meta["grad_digest"], noise)

    settings = optim.OptimizerConfig(
        name="adamw",
        learning_rate=adamw["lr"],
        b1=adamw["betas"][0],
        b2=adamw["betas"][1],
        weight_decay=adamw["weight_decay_on_linear_weights"],
        clip_norm=0.0,
        warmup_steps=0,
        schedule="constant",
        min_learning_rate=0.0,
    )
    chain = optim.make(settings, 3, config.decays)
    update = jax.jit(lambda grads, state, network: chain.update(grads, state, network))
    network, state = model.network, chain.init(model.network)
    for step, expected in enumerate(adamw["losses_total_content_position"]):
        (loss, metrics), grads = value_and_grad(network, *batch(case, f"step{step}"))
        found = [loss, metrics["content_loss"], metrics["position_loss"]]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        updates, state = update(grads, state, network)
        network = optax.apply_updates(network, updates)
    assert_digests(tensors(network), adamw["params_after"], noise)


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_survive_the_round_trip(golden, name, tmp_path):
    case, config, model = load(golden, name)
    state_dict = dqtransformer_to_torch(model)
    shapes = {key: list(x().shape if callable(x) else x.shape) for key, x in state_dict.items()}
    assert shapes == {key: list(shape) for key, shape in dqtransformer_keys(config).items()}
    own = {key.removeprefix("transformer."): x for key, x in state_dict.items() if not callable(x)}
    assert set(own) == set(case.meta["param_shapes"])
    for key, array in own.items():
        np.testing.assert_array_equal(array, case.array(key, case.meta["param_shapes"][key]))

    path = tmp_path / "last.ckpt"
    file.save(path, {"state_dict": {"first_stage_model.conv.weight": np.zeros(3)} | state_dict})
    found = file.load(path)["state_dict"]
    size = config.block_size
    mask = found["transformer.content_transformer.1.attn.mask"]
    np.testing.assert_array_equal(mask, np.tril(np.ones((1, 1, size, size))))
    again = dqtransformer_from_torch(found, config)
    jax.tree.map(np.testing.assert_array_equal, again, model)


def test_wrong_state_dicts_are_refused_by_name(golden):
    _, config, model = load(golden, "class")
    state_dict = dqtransformer_to_torch(model)
    state_dict["transformer.extra"] = state_dict.pop("transformer.seg_emb.weight")
    with pytest.raises(InputError, match=r"missing seg_emb.weight.*unknown extra"):
        dqtransformer_from_torch(state_dict, config)


def official(classes: int) -> dict:
    """The model section of the published file."""
    size, pads = classes or 1, {"coarse_position_pad_code": 256, "fine_position_pad_code": 1024}
    network = {
        **{"vocab_size": 1026 + size, "coarse_position_size": 258 + size, "fine_position_size": 1026 + size},
        **{"segment_size": 2, "block_size": 2048, "position_layer": 6, "content_layer": 18, "n_head": 8},
        **{"n_embd": 1024, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "content_pad_code": 1024},
        **{"activate_pad_ignore": True, **pads},
    }
    permuter = {
        **{"coarse_hw": 16, "fine_hw": 32, "content_pad_code": 1024, "content_eos_code": 1025, **pads},
        **{"coarse_position_eos_code": 257, "fine_position_eos_code": 1025, "fine_position_order": "row-first"},
    }
    segments = {"coarse_seg_sos": 0, "fine_seg_sos": 1}
    sos = {"coarse_sos": 1026, "coarse_pos_sos": 258, "fine_sos": 1026, "fine_pos_sos": 1026}
    name, provider, start = "uncond", "PositionAwareSOSProvider", sos
    if classes:
        name, provider = "class_cond", "ClassAwareSOSProvider"
        start = {"n_classes": classes, "threshold_content": 1026}
        start |= {"threshold_coarse_position": 258, "threshold_fine_position": 1026}
    modules = "modules.dynamic_modules"
    return {
        "learning_rate": 0.0005,
        "min_learning_rate": 0.0,
        "target": f"models.stage2_dynamic.dqtransformer_{'class2' if classes else 'uncond'}_entropy.Dualformer",
        "params": {
            "transformer_config": {"target": f"{modules}.stackgpt.StackGPT", "params": network},
            "first_stage_config": {"target": "models.stage1_dynamic.dqvae_dual_entropy.DualGrainVQModel"},
            f"{name}_stage_config": {"target": f"{modules}.label_provider.{provider}", "params": start | segments},
            "permuter_config": {"target": f"{modules}.permuter.DualGrainSeperatePermuter", "params": permuter},
            **{"content_loss_weight": 1.0, "position_loss_weight": 1.0, "activate_sos_for_fine_sequence": True},
            **{"weight_decay": 0.01, "warmup_epochs": 0, "monitor": "val_loss"},
        },
    }


@pytest.mark.parametrize(("classes", "name", "count"), [(1000, "class", 313_999_360), (0, "uncond", 308_884_480)])
def test_published_models_have_our_keys_and_sizes(classes, name, count):
    config = dqtransformer_config(official(classes))
    expected = json.loads((KEYS / f"{name}_imagenet_p6c18_transformer.json").read_text())
    found = {key.removeprefix("transformer."): list(shape) for key, shape in dqtransformer_keys(config).items()}
    assert list(found) == list(expected)
    assert found == expected
    model = jax.eval_shape(config.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(model.network)) == count


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "transformer_config",
            {"n_heads": 8},
            "unknown keys in this DQ-Transformer config: transformer_config.n_heads",
        ),
        ("transformer_config", {"n_head": None}, "transformer_config.n_head is missing"),
        (
            "transformer_config",
            {"vocab_size": 1027},
            "transformer_config.vocab_size is 1027, the rest .* makes it 2026",
        ),
        ("transformer_config", {"fine_position_pad_code": 1025}, "fine_position_pad_code is 1025, .* makes it 1024"),
        ("transformer_config", {"segment_size": 0}, "segment_size is 0, .* makes it 2"),
        ("transformer_config", {"activate_pad_ignore": False}, "activate_pad_ignore is False"),
        ("permuter_config", {"coarse_position_eos_code": 258}, "coarse_position_eos_code is 258, .* makes it 257"),
        ("permuter_config", {"fine_hw": 48}, "grids .16, 48. do not double"),
        ("class_cond_stage_config", {"threshold_content": 1025}, "threshold_content is 1025, .* makes it 1026"),
        ("class_cond_stage_config", {"n_classes": 999}, "vocab_size is 2026, .* makes it 2025"),
        (None, {"activate_sos_for_fine_sequence": False}, "activate_sos_for_fine_sequence is False"),
        (None, {"uncond_stage_config": {}}, "unknown keys .*: model.params.uncond_stage_config"),
    ],
)
def test_official_options_that_disagree_are_refused(part, changes, message):
    model = official(1000)
    section = model["params"] if part is None else model["params"][part]["params"]
    section.update(changes)
    for name in [name for name, value in changes.items() if value is None]:
        del section[name]
    with pytest.raises(InputError, match=message):
        dqtransformer_config(model)


MIXED = {
    (2, 4): [(1, 0), (0.5, 0.5), (0, 1), (0.7, 0.3)],
    (2, 4, 8): [(1, 0, 0), (0.3, 0.4, 0.3), (0, 0, 1), (0, 1, 0)],
}


@pytest.mark.parametrize("grids", MIXED)
def test_packed_losses_and_gradients_equal_those_of_padded_rows(grids):
    config = small_config(grids=grids, block_size=80, row_length=100, pack_groups=2)
    model = strong(config.init(jax.random.key(0)))
    codes, labels = random_codes(model.layout, MIXED[grids]), jnp.array([0, 2, 1, 1])

    def run(pack):
        chosen = dataclasses.replace(model, pack=pack)
        loss = lambda n: chosen.loss_from_codes(n, codes, labels)  # noqa: E731
        # one gradient test is enough: compiling it is slow
        return jax.jit(jax.value_and_grad(loss, has_aux=True) if len(grids) == 2 else lambda n: (loss(n), ()))

    (expected, metrics), expected_grads = run(False)(model.network)
    (found, packed), grads = run(True)(model.network)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in metrics:
        if name not in ("padding", "unplaced"):
            np.testing.assert_allclose(packed[name], metrics[name], rtol=1e-5)
    assert packed["unplaced"] == 0
    assert np.isfinite(expected)
    largest = max((float(jnp.abs(x).max()) for x in jax.tree.leaves(expected_grads)), default=0.0)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_the_loss_is_that_of_a_plain_definition():
    """Three grains: each image alone, its streams listed by hand, and losses pooled over the batch."""
    config = small_config(grids=(2, 4, 8), block_size=80, order="region-first", position_loss_weight=0.5)
    model = strong(config.init(jax.random.key(0)))
    layout, labels = model.layout, jnp.array([2, 0])
    codes = random_codes(layout, [(0.4, 0.3, 0.3), (0, 0.5, 0.5)], seed=3)
    logits = jax.jit(model.logits.__func__)(model, codes, labels)
    scores = [[], [], []], []
    for i in range(2):
        sequence = []
        for g, grid in enumerate(layout.grids):
            block, wide = 8 // grid, 8 // 2
            sequence.append((layout.position_sos[g] + int(labels[i]), layout.content_sos + int(labels[i]), g))
            for cell in layout.cells(g):
                y, x = cell // grid * block, cell % grid * block
                if codes.grain[i, y // wide, x // wide] == g:
                    sequence.append((int(cell), int(codes.codes[i, y, x]), g))
            sequence.append((layout.position_eos[g], layout.content_eos, g))
        for t, (position, content, g) in enumerate(sequence[1:]):
            scores[0][g].append(-jax.nn.log_softmax(logits[0][i, t])[position])
            scores[1].append(-jax.nn.log_softmax(logits[1][i, t])[content])
    loss, metrics = jax.jit(lambda n: model.loss_from_codes(n, codes, labels))(model.network)
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
    tokens = dqloss.Tokens(*jnp.zeros((3, 200, layout.capacity), jnp.int32), jnp.asarray(length, jnp.int32))
    share = 1.05 * np.sum(length) / (200 * 2048)
    rows = jax.jit(lambda tokens: dqloss.packed(tokens, layout, 1, 2048, share))(tokens)
    assert int(rows.unplaced) == 0
    assert np.sum(rows.image >= 0) == np.sum(length)
    assert np.mean(rows.image < 0) < 0.1
    assert 1 - np.mean(length) / layout.capacity > 0.3


def test_images_without_room_are_left_out_and_counted():
    config = small_config(pack=True, rows_per_image=0.25, row_length=20)
    model = strong(config.init(jax.random.key(0)))
    codes, labels = random_codes(model.layout, [(0, 1)] * 4), jnp.zeros(4, jnp.int32)
    loss, metrics = jax.jit(lambda: model.loss_from_codes(model.network, codes, labels))()
    assert metrics["unplaced"] == 3
    alone = dataclasses.replace(model, pack=False)
    expected = alone.loss_from_codes(alone.network, jax.tree.map(lambda x: x[:1], codes), labels[:1])[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    with pytest.raises(InputError, match="pack_groups=3 does not divide a batch of 4"):
        dataclasses.replace(model, pack_groups=3).loss_from_codes(model.network, codes, labels)


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
    config = small_config(grids=tokenizer.grids, codebook_size=16, block_size=80, **changes)
    config.check_tokenizer(tokenizer_config())
    model = strong(config.init(jax.random.key(0)))
    image, labels = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3), minval=-1), jnp.array([0, 2])

    @functools.partial(jax.jit, static_argnums=1)
    def score(seed, train):
        return model.loss(model.network, tokenizer, image, labels, jax.random.key(seed), train)[0]

    assert score(0, False) == score(1, False)
    assert score(0, True) != score(1, True)
    codes = jax.jit(tokenizer.encode)(image)
    np.testing.assert_allclose(score(0, False), model.loss_from_codes(model.network, codes, labels)[0], rtol=1e-5)


def test_bfloat16_and_remat_compute_near_float32():
    model = strong(small_config().init(jax.random.key(0)), 2.0)
    other = strong(small_config(dtype="bfloat16", remat=True).init(jax.random.key(0)), 2.0)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(other.network))
    codes, labels = random_codes(model.layout, MIXED[2, 4]), jnp.array([0, 2, 1, 1])
    score = lambda m: jax.jit(jax.value_and_grad(lambda n: m.loss_from_codes(n, codes, labels)[0]))(m.network)  # noqa: E731
    (expected, _), (found, grads) = score(model), score(other)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grads))


def test_the_loss_falls_on_codes_with_structure():
    """Grains and codes that follow from the class alone: the prior must learn them almost exactly."""
    model = small_config(dim=32).init(jax.random.key(0))
    codes, labels = random_codes(model.layout, [(0.5, 0.5)] * 3), jnp.arange(3)
    chain = optax.adam(3e-3)

    @jax.jit
    def step(network, state):
        loss, grads = jax.value_and_grad(lambda n: model.loss_from_codes(n, codes, labels)[0])(network)
        updates, state = chain.update(grads, state, network)
        return optax.apply_updates(network, updates), state, loss

    network, state = model.network, chain.init(model.network)
    losses = []
    for _ in range(200):
        network, state, loss = step(network, state)
        losses.append(float(loss))
    uniform = np.log(model.layout.position_sizes[-1]) + np.log(model.layout.content_size)
    assert losses[0] == pytest.approx(uniform, rel=0.1)
    assert losses[-1] < 0.2


def test_eight_devices_compute_what_one_does():
    """Rows over "data", heads over "model"; each part of the batch is packed on its own."""
    config = small_config(pack=True, pack_groups=4)
    model = strong(config.init(jax.random.key(0)))
    codes, labels = random_codes(model.layout, MIXED[2, 4] * 2), jnp.arange(8) % 3

    def loss(network, codes, labels):
        return model.loss_from_codes(network, codes, labels)[0]

    expected = jax.jit(jax.value_and_grad(loss))(model.network, codes, labels)
    mesh = meshes.make_mesh("4x2")
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731
    network = jax.device_put(model.network, place())
    kernel = model.network.content_stack.blocks.query.kernel
    network.content_stack.blocks.query.kernel = jax.device_put(kernel, place(None, None, "model"))
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss))(network, *jax.device_put((codes, labels), place("data")))
        with pytest.raises(InputError, match="pack_groups=2 for 4 data shards"):
            dataclasses.replace(model, pack_groups=2).loss_from_codes(network, codes, labels)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[1]))
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": (2, 6)}, "grids .2, 6. do not double"),
        ({"order": "column-first"}, "order 'column-first' of positions is unknown"),
        ({"heads": 3}, "heads=3 does not divide dim=16"),
        ({"block_size": 18}, "block_size is 18: an image can take 19 tokens"),
        ({"pack": True, "row_length": 19}, "row_length is 19: an image can take 20 tokens"),
        ({"pack": True, "rows_per_image": 0.0}, "rows_per_image is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"content_layers": 0}, "content_layers is 0"),
        ({"content_loss_weight": -1.0}, "below 0"),
    ],
)
def test_configs_that_make_no_model_are_refused(changes, message):
    small_config().check()
    with pytest.raises(InputError, match=message):
        small_config(**changes).check()


def test_a_tokenizer_of_other_codes_is_refused():
    tokenizer = tokenizer_config()
    with pytest.raises(InputError, match=r"the prior's grids are .2, 4., the tokenizer has .4, 8."):
        small_config(grids=(2, 4), codebook_size=tokenizer.codes).check_tokenizer(tokenizer)
    with pytest.raises(InputError, match="the prior's codebook_size is 7 with special codes from there on"):
        small_config(grids=tokenizer.grids, codebook_size=7).check_tokenizer(tokenizer)


def test_a_third_grain_survives_the_round_trip():
    config = small_config(grids=(2, 4, 8), block_size=80)
    model = jax.jit(config.init)(jax.random.key(0))
    state_dict = dqtransformer_to_torch(model)
    names = [f"transformer.content_{name}_pos_emb.weight" for name in ("coarse", "median", "fine")]
    assert [state_dict[name].shape for name in names] == [(9, 16), (21, 16), (69, 16)]
    jax.tree.map(np.testing.assert_array_equal, dqtransformer_from_torch(state_dict, config), model)
