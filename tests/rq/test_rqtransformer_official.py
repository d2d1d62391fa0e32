"""The RQ-Transformer against the official one: golden numbers, state dicts, options."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rqjax.errors import InputError
from rqjax.nets import cross_entropy
from rqjax.official.convert import import_model, keys, to_torch
from rqjax.official.rqtransformer import rqtransformer_config
from rqjax.rq.loss import Target
from tests.conftest import assert_digests, noise_keys
from tests.small_rq import CASES, load, logits_of

KEYS = pathlib.Path(__file__).parents[1] / "keys" / "rq"
ARCHS = json.loads((KEYS / "rqtransformer_arch.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_logits_and_losses_equal_the_official_ones(golden, name):
    case, model, books, labels = load(golden, name)
    data, codes = case.data, jnp.asarray(case.data["codes"], jnp.int32)
    logits, text_logits = jax.jit(logits_of)(model, books, codes, labels)
    np.testing.assert_allclose(logits, data["logits"], rtol=1e-4, atol=1e-5)
    loss, metrics = jax.jit(model.loss_from_codes.__func__)(model, books, codes, labels)
    np.testing.assert_allclose(loss, data["train_loss"], rtol=1e-4)
    np.testing.assert_allclose(metrics["image_loss"], data["loss_hard"], rtol=1e-4)
    by_depth = [metrics[f"loss_{d + 1}"] for d in range(codes.shape[-1])]
    np.testing.assert_allclose(by_depth, data["codebook_loss_hard"], rtol=1e-4)
    soft = Target(jnp.asarray(data["soft_target"], jnp.float32), cross_entropy.soft)
    _, metrics = jax.jit(lambda m: m.loss_from_codes(books, codes, labels, soft))(model)
    np.testing.assert_allclose(metrics["image_loss"], data["loss_soft_target"], rtol=1e-4)
    if "cond_logits" in data:
        np.testing.assert_allclose(text_logits, data["cond_logits"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["text_loss"], data["cond_loss"], rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_three_steps_equal_the_official_ones(golden, name):
    case, model, books, labels = load(golden, name)
    adamw, grad_digest = case.meta["adamw"], case.meta["grad_digest"]
    noise = noise_keys(grad_digest)

    @jax.jit
    def value_and_grad(network, codes):
        score = lambda network: model.with_trained(network).loss_from_codes(books, codes, labels)[0]  # noqa: E731
        return jax.value_and_grad(score)(network)

    _, grads = value_and_grad(model.network, jnp.asarray(case.data["codes"], jnp.int32))
    assert_digests(to_torch(dataclasses.replace(model, network=grads)), grad_digest, noise)

    chain = optax.chain(
        optax.clip_by_global_norm(adamw["clip_global_norm"]),
        optax.adamw(adamw["lr"], *adamw["betas"], adamw["eps"], weight_decay=adamw["weight_decay"]),
    )
    network, state = model.network, chain.init(model.network)
    for step, expected in enumerate(adamw["loss_and_grad_norm"]):
        draws = [np.random.RandomState(100 + 10 * step + d) for d in range(model.config.depth)]
        shape = (case.meta["batch"], *model.config.code_shape)
        codes = np.stack(
            [draw.randint(0, size, shape) for draw, size in zip(draws, model.config.sizes, strict=True)], -1
        )
        loss, grads = value_and_grad(network, jnp.asarray(codes, jnp.int32))
        np.testing.assert_allclose([loss, optax.global_norm(grads)], expected, rtol=1e-4)
        updates, state = chain.update(grads, state, network)
        network = optax.apply_updates(network, updates)
    assert_digests(to_torch(dataclasses.replace(model, network=network)), adamw["params_after"], noise)


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_survive_the_round_trip(golden, name):
    case, model, _, _ = load(golden, name)
    state_dict = to_torch(model)
    assert set(state_dict) == set(case.meta["param_shapes"])
    state_dict.pop("tok_emb.offsets", None)  # see load; test_official_options.py has true ones
    for key, array in state_dict.items():
        np.testing.assert_array_equal(array, case.array(key, case.meta["param_shapes"][key]))


def test_embeddings_by_depth_keep_their_offsets(golden):
    case = golden("rq/rqtransformer_unconditional_own_embeddings")
    config = rqtransformer_config(case.meta["config"])
    state_dict = case.state_dict() | {"tok_emb.offsets": np.array([0, 48, 96])}
    found = to_torch(import_model(state_dict, config))
    assert set(found) == set(state_dict)
    assert list(found).index("tok_emb.offsets") == list(found).index("tok_emb.weight") + 1
    np.testing.assert_array_equal(found["tok_emb.offsets"], [0, 48, 96])
    with pytest.raises(InputError, match=r"tok_emb.offsets is \(0, 48, 48\), the vocabularies say \(0, 48, 96\)"):
        import_model(state_dict | {"tok_emb.offsets": np.array([0, 48, 48])}, config)


@pytest.mark.parametrize("name", ARCHS)
def test_published_models_have_our_keys_and_sizes(name):
    expected = json.loads((KEYS / f"{name}.json").read_text())
    config = rqtransformer_config(ARCHS[name]["arch"])
    found = keys(config)
    assert list(found) == list(expected)
    assert {key: list(shape) for key, shape in found.items()} == expected
    model = jax.eval_shape(config.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(model.network)) == ARCHS[name]["params"]


def test_official_options_are_read_or_refused(golden):
    arch = golden("rq/rqtransformer_class").meta["config"]
    block = {"n_head": 4, "resid_pdrop": 0.3, "attn_pdrop": 0.2, "gelu": "v2"}
    stacks = {"body": {"n_layer": 3, "block": block}, "head": {"n_layer": 2, "block": block}}
    config = rqtransformer_config(arch | stacks | {"embd_pdrop": 0.1, "ema": None, "ar_hierarchy": True})
    assert (config.dropout, config.attention_dropout, config.embedding_dropout) == (0.3, 0.2, 0.1)
    assert config.sigmoid_gelu
    assert (config.classes, config.text_vocab) == (10, 0)
    with pytest.raises(InputError, match=r"unknown keys arch\.n_layers"):
        rqtransformer_config(arch | {"n_layers": 3})
    with pytest.raises(InputError, match=r"arch\.body\.block\.n_head is missing"):
        rqtransformer_config(arch | {"body": {"n_layer": 3, "block": {"resid_pdrop": 0.0}}})
    with pytest.raises(InputError, match=r"^arch\.head\.block\.n_head=5 does not divide arch\.embed_dim=64"):
        rqtransformer_config(arch | {"head": {"n_layer": 3, "block": block | {"n_head": 5}}})
    with pytest.raises(InputError, match=r"^arch\.head\.n_layer is -1: expected a whole number of at least 0"):
        rqtransformer_config(arch | {"head": {"n_layer": -1, "block": block}})
    with pytest.raises(InputError, match="vocab_size_cond"):
        rqtransformer_config(arch | {"vocab_size_cond": 1, "block_size_cond": 8})


def test_a_wrong_state_dict_is_refused_by_name(golden):
    case, model, _, _ = load(golden, "class")
    state_dict = to_torch(model)
    state_dict["extra"] = state_dict.pop("pos_emb_d")
    with pytest.raises(InputError, match=r"missing pos_emb_d.*unknown extra"):
        import_model(state_dict, rqtransformer_config(case.meta["config"]))


def test_the_official_head_sums_over_depths_only_with_the_tokenizers_vectors(golden):
    arch = golden("rq/rqtransformer_class").meta["config"]
    assert rqtransformer_config(arch).cumsum_depth_ctx
    config = rqtransformer_config(arch | {"head_emb_vqvae": False})
    assert not config.cumsum_depth_ctx
    ours = dataclasses.replace(config, cumsum_depth_ctx=True)
    with pytest.raises(InputError, match="cumsum_depth_ctx without head_emb_vqvae has no official form"):
        keys(ours)


def test_offsets_of_one_depth_are_there_too(golden):
    arch = golden("rq/rqtransformer_unconditional_own_embeddings").meta["config"]
    config = rqtransformer_config(arch | {"block_size": [4, 4, 1], "vocab_size": 48})
    assert keys(config)["tok_emb.offsets"] == (1,)
    assert "tok_emb.offsets" not in keys(dataclasses.replace(config, shared_tok_emb=True))
