"""The DQ-Transformer against the official one: golden numbers, state dicts, options."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax import optim
from rqjax.dq.packing import packed
from rqjax.errors import InputError
from rqjax.official.convert import import_model, keys, to_torch
from rqjax.official.dqtransformer import (
    MASK,
    dqtransformer_config,
)
from rqjax.quantize.dynamic import Codes
from rqjax.torchfile import file
from tests.conftest import assert_digests, noise_keys
from tests.small_dq import logits_of, small_config

KEYS = pathlib.Path(__file__).parents[1] / "keys" / "dq"
CASES = ("class", "unconditional")


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
    return case, config, import_model(case.state_dict(), config)


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
    found = jax.jit(logits_of)(model, codes, labels)
    for i in range(len(labels)):
        for kind, logits in zip(("position", "content"), found, strict=True):
            expected = case.data[f"{kind}_logits_{i}"][0]
            np.testing.assert_allclose(logits[i, : len(expected)], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_packed_images_keep_their_official_logits(golden, name):
    case, config, model = load(golden, name)
    codes, labels = images(case)
    sizes = {"groups": 1, "row_length": config.row_length, "rows_per_image": 1.0}

    @jax.jit
    def run(network, codes, labels):
        rows, unplaced = packed(model.rows(codes, labels), config.layout, **sizes)
        outputs = network(rows.tokens, rows.image)
        return rows, unplaced, network.position_head(outputs[0]), network.content_head(outputs[1])

    rows, unplaced, *found = run(model.network, codes, labels)
    assert len(np.unique(rows.image[0])) > 2  # several images share a row
    assert int(unplaced) == 0
    for i in range(len(labels)):
        row, slot = np.nonzero(np.asarray(rows.image) == i)
        for kind, logits in zip(("position", "content"), found, strict=True):
            expected = case.data[f"{kind}_logits_{i}"][0]
            np.testing.assert_array_equal(rows.tokens.index[row, slot], np.arange(len(expected) + 1))
            np.testing.assert_allclose(logits[row[:-1], slot[:-1]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_single_images_equal_the_official_ones(golden, name):
    case, _, model = load(golden, name)
    codes, labels = images(case)
    run = jax.jit(lambda codes, label: model.loss_from_codes(codes, label)[1])
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
        loss = lambda network: model.with_trained(network).loss_from_codes(codes, labels)  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(network)

    def tensors(network):
        state_dict = to_torch(model.with_trained(network))
        return {key.removeprefix("transformer."): x for key, x in state_dict.items() if MASK not in key}

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
    optimizer = optim.make(settings, 3, config.decays)
    update = jax.jit(lambda grads, state, network: optimizer.update(grads, state, network))
    network = jax.tree.map(jnp.asarray, model.network)
    state = optimizer.init(network)
    for step, expected in enumerate(adamw["losses_total_content_position"]):
        (loss, metrics), grads = value_and_grad(network, *batch(case, f"step{step}"))
        found = [loss, metrics["content_loss"], metrics["position_loss"]]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        network, state = update(grads, state, network)
    assert_digests(tensors(network), adamw["params_after"], noise)


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_survive_the_round_trip(golden, name, tmp_path):
    case, config, model = load(golden, name)
    state_dict = to_torch(model)
    assert {key: x.shape for key, x in state_dict.items()} == keys(config)
    assert (
        len({id(x) for key, x in state_dict.items() if MASK in key}) == 1
    )  # memory for one mask, and a place in files
    own = {key.removeprefix("transformer."): x for key, x in state_dict.items() if MASK not in key}
    assert set(own) == set(case.meta["param_shapes"])
    for key, array in own.items():
        np.testing.assert_array_equal(array, case.array(key, case.meta["param_shapes"][key]))

    path = tmp_path / "last.ckpt"
    file.save(path, {"state_dict": {"first_stage_model.conv.weight": np.zeros(3)} | state_dict})
    found = file.load(path)["state_dict"]
    size = config.block_size
    mask = found["transformer.content_transformer.1.attn.mask"]
    np.testing.assert_array_equal(mask, np.tril(np.ones((1, 1, size, size))))
    again = import_model(found, config)
    jax.tree.map(np.testing.assert_array_equal, again, model)


def test_wrong_state_dicts_are_refused_by_name(golden):
    _, config, model = load(golden, "class")
    state_dict = to_torch(model)
    state_dict["transformer.extra"] = state_dict.pop("transformer.seg_emb.weight")
    with pytest.raises(InputError, match=r"missing seg_emb.weight.*unknown extra"):
        import_model(state_dict, config)


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
    found = {key.removeprefix("transformer."): list(shape) for key, shape in keys(config).items()}
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
            "unknown keys model.params.transformer_config.params.n_heads",
        ),
        ("transformer_config", {"n_head": None}, "transformer_config.params.n_head is missing"),
        (
            "transformer_config",
            {"vocab_size": 1027},
            "transformer_config.params.vocab_size is 1027: expected 2026",
        ),
        ("transformer_config", {"fine_position_pad_code": 1025}, "fine_position_pad_code is 1025: expected 1024"),
        ("transformer_config", {"segment_size": 0}, "segment_size is 0: expected 2"),
        ("transformer_config", {"activate_pad_ignore": False}, "activate_pad_ignore is False"),
        ("permuter_config", {"coarse_position_eos_code": 258}, "coarse_position_eos_code is 258: expected 257"),
        ("permuter_config", {"fine_hw": 48}, "permuter_config.params.fine_hw is 48: expected 32"),
        (
            "permuter_config",
            {"fine_position_order": "x"},
            "^model.params.permuter_config.params.fine_position_order is 'x': expected one of",
        ),
        (
            "transformer_config",
            {"n_head": 7},
            "^model.params.transformer_config.params.n_head=7 does not divide "
            "model.params.transformer_config.params.n_embd=1024",
        ),
        ("transformer_config", {"block_size": 9}, "^model.params.transformer_config.params.block_size is 9: an image"),
        ("transformer_config", {"resid_pdrop": 1}, "^model.params.transformer_config.params.resid_pdrop is 1.0"),
        (None, {"content_loss_weight": -1}, "^model.params.content_loss_weight is -1.0: expected at least 0"),
        ("class_cond_stage_config", {"threshold_content": 1025}, "threshold_content is 1025: expected 1026"),
        ("class_cond_stage_config", {"n_classes": 999}, "vocab_size is 2026: expected 2025"),
        (None, {"activate_sos_for_fine_sequence": False}, "activate_sos_for_fine_sequence is False"),
        (None, {"uncond_stage_config": {}}, "unknown keys model.params.uncond_stage_config"),
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
