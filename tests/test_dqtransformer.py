import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_digests, noise_keys

from rqjax import optim
from rqjax.models import dqloss
from rqjax.models.dqtransformer import DQTransformerConfig
from rqjax.pytorch.dqtransformer import (
    dqtransformer_from_torch,
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
