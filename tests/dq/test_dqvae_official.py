"""The DQ-VAE against the official one: golden numbers, state dicts, options."""

import copy
import dataclasses
import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.vae import DQVAE
from rqjax.errors import InputError
from rqjax.official.convert import import_model, to_torch
from rqjax.official.dqvae import dqvae_config, entries
from rqjax.official.thresholds import Entropy
from rqjax.quantize.entropy import write_thresholds
from rqjax.store.arrays import to_arrays
from rqjax.torchfile.table import export_arrays
from tests.conftest import Golden, assert_digests, assert_near, digest, nhwc, noise_keys
from tests.small_dq import routed_by

HERE = pathlib.Path(__file__).parents[1]
CASES = ("dqvae_dual_feature", "dqvae_dual_entropy", "dqvae_triple_feature")
MODULES = "modules.dynamic_modules"
TARGETS = {
    "dqvae_feature": ("dqvae_dual_feat.DualGrainVQModel", "EncoderDual.DualGrainEncoder"),
    "dqvae_entropy": ("dqvae_dual_entropy.DualGrainVQModel", "EncoderDual.DualGrainEncoder"),
    "dqvae_triple": ("dqvae_triple_feat.TripleGrainVQModel", "EncoderTriple.TripleGrainEncoder"),
}
BUDGETS = {
    "dqvae_feature": "BudgetConstraint_RatioMSE_DualGrain",
    "dqvae_triple": "BudgetConstraint_NormedSeperateRatioMSE_TripleGrain",
}


def section(golden: Golden, json_path: str = "") -> dict:
    """A case as the `model` section of an official file."""
    meta = golden.meta
    model, encoder = TARGETS[meta["kind"]]
    loss: dict = {"disc_start": 0}
    if meta["budget"]:
        loss["budget_loss_config"] = {"target": f"{MODULES}.budget.{BUDGETS[meta['kind']]}", "params": meta["budget"]}
    options = copy.deepcopy(meta["encoder"])
    if meta["entropy"]:
        params = {"json_path": json_path, "fine_grain_ratito": meta["entropy"]["fine_ratio"]}
        options["router_config"] = {"target": f"{MODULES}.RouterDual.DualGrainFixedEntropyRouter", "params": params}
    parts = {
        "encoderconfig": {"target": f"{MODULES}.{encoder}", "params": options},
        "decoderconfig": {"target": f"{MODULES}.DecoderPositional.Decoder", "params": dict(meta["decoder"])},
        "lossconfig": {
            "target": "modules.losses.vqperceptual_multidisc.VQLPIPSWithDiscriminator",
            "params": loss,
        },
        "vqconfig": {
            "target": "modules.vector_quantization.quantize2_mask.VectorQuantize2",
            "params": {"codebook_size": meta["codebook_size"], "codebook_dim": meta["encoder"]["z_channels"]},
        },
    }
    return {
        "base_learning_rate": 4.5e-6,
        "target": f"models.stage1_dynamic.{model}",
        "params": {**parts, "monitor": "x"},
    }


def official_table(path: pathlib.Path, values: dict[int, float]) -> None:
    """Writes thresholds as the official script does: nothing says of which patches and bins."""
    path.write_text(json.dumps({str(percentile): value for percentile, value in values.items()}))


@functools.cache
def load(case: str, folder: pathlib.Path) -> tuple[Golden, DQVAEConfig, DQVAE]:
    golden = Golden(f"dq/{case}")
    if entropy := golden.meta["entropy"]:
        official_table(folder / "thresholds.json", dict.fromkeys(range(1, 100), entropy["threshold"]))
    config = dqvae_config(section(golden, "thresholds.json"), entropy=Entropy("-1_1", folder))
    return golden, config, jax.tree.map(jnp.asarray, import_model(golden.state_dict(), config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("thresholds")


@pytest.fixture(params=CASES)
def case(request, folder):
    return load(request.param, folder)


def test_evaluation_equals_the_official_one(case):
    golden, _, model = case
    data, image = golden.data, nhwc(golden.data["x"])
    routed = jax.jit(routed_by)(model, image)
    np.testing.assert_array_equal(routed.grain, data["grain"])
    np.testing.assert_array_equal(routed.mask, data["codebook_mask"])
    assert_near(routed.merged, nhwc(data["merged"]))
    assert_near(routed.gate, nhwc(data["gate_eval"]))
    assert_near(model.network.quant_conv(routed.merged), nhwc(data["z_e"]))
    quantized, grain = jax.jit(DQVAE.quantize)(model, image)
    np.testing.assert_array_equal(quantized.codes, data["codes"])
    assert_near(quantized.quantized, nhwc(data["z_q"]))
    assert_near(quantized.loss, data["quant_loss"])
    codes = jax.jit(DQVAE.encode)(model, image)
    np.testing.assert_array_equal(codes.codes, data["codes"])
    np.testing.assert_array_equal(codes.grain, grain)
    assert_near(jax.jit(DQVAE.reconstruct)(model, image), nhwc(data["recon"]))
    assert_near(jax.jit(DQVAE.decode_codes)(model, codes), nhwc(data["recon"]))


def test_train_step_equals_the_official_one(case):
    golden, config, model = case
    data, image = golden.data, nhwc(golden.data["x"])
    noise = jnp.asarray(data["gumbel_noise"]) if "gumbel_noise" in data else None

    @jax.jit
    def step(network, model):
        def loss(network):
            forward = model.with_trained(network).train_forward(image, jax.random.key(0), noise)
            # the L1 error, but with the official signs: one pixel is right to 2e-7, where rounding makes the sign
            return jnp.mean((image - forward.reconstruction) * sign) + forward.loss, forward

        return jax.value_and_grad(loss, has_aux=True)(network)

    sign = jnp.sign(image - nhwc(data["train_recon"]))
    (total, forward), grads = step(model.network, model)
    assert_near(forward.reconstruction, nhwc(data["train_recon"]))
    assert_near(total, data["train_total_loss"])
    assert_near(forward.metrics["commitment"], data["train_quant_loss"])
    if "train_budget_loss" in data:
        assert_near(forward.metrics["budget"], data["train_budget_loss"])
    share = np.bincount(data["train_grain"].reshape(-1), minlength=config.grains) / data["train_grain"].size
    names = ("coarse", "median", "fine") if config.grains == 3 else ("coarse", "fine")
    np.testing.assert_allclose([forward.metrics[f"{name}_fraction"] for name in names], share, rtol=1e-5)
    per_image = (4 ** data["train_grain"]).sum() / len(data["train_grain"])
    np.testing.assert_allclose(forward.metrics["codes_per_image"], per_image, rtol=1e-6)
    table = [entry for entry in entries(model) if entry.path.startswith("network/")]
    tensors = export_arrays(table, {f"network/{path}": x for path, x in to_arrays(grads).items()})
    expected = {key: value for key, value in golden.meta["grad_digest"].items() if value is not None}
    assert set(expected) == set(tensors)
    assert_digests(tensors, expected, noise_keys(expected))
    official = to_torch(model.with_quantizer(forward.quantizer))
    assert_near(official["quantize.codebook.cluster_size_ema"], data["ema1_cluster_size"])
    for name, value in golden.meta["ema_after_one_step"].items():
        ours = digest(name, official[f"quantize.codebook.{name}"])
        np.testing.assert_allclose(ours, value, rtol=0, atol=1e-3 * value[0])


def test_the_state_dict_comes_back(case):
    golden, _, model = case
    back, there = to_torch(model), golden.state_dict()
    assert set(back) == set(there)
    for key, tensor in there.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


def official(name: str, loss: dict, router: dict, encoder: dict, model: str) -> dict:
    """An official file, of which the tests below need all that names a shape."""
    common = {"ch": 128, "num_res_blocks": 2, "dropout": 0.0, "resamp_with_conv": True, "resolution": 256}
    decoder = {"in_ch": 256, "out_ch": 3, "ch_mult": [1, 1, 2, 2], "attn_resolutions": [32], "latent_size": 32}
    quantizer = {"codebook_size": 1024, "codebook_dim": 256, "commitment_beta": 0.25, "decay": 0.99}
    parts = {
        "encoderconfig": {
            "target": f"{MODULES}.{name}",
            "params": {**common, "in_channels": 3, "z_channels": 256, "router_config": router, **encoder},
        },
        "decoderconfig": {
            "target": f"{MODULES}.DecoderPositional.Decoder",
            "params": {**common, **decoder, "window_size": 2, "position_type": "fourier+learned"},
        },
        "lossconfig": {"target": "modules.losses.vqperceptual_multidisc.VQLPIPSWithDiscriminator", "params": loss},
        "vqconfig": {
            "target": "modules.vector_quantization.quantize2_mask.VectorQuantize2",
            "params": {**quantizer, "restart_unused_codes": True, "channel_last": False, "accept_image_fmap": True},
        },
    }
    sizes = {"quant_before_dim": 256, "quant_after_dim": 256, "quant_sample_temperature": 0.0}
    rest = {"image_key": "image", "monitor": "val_rec_loss", "warmup_epochs": 0.1}
    return {"base_learning_rate": 4.5e-6, "target": f"models.stage1_dynamic.{model}", "params": parts | sizes | rest}


def feature_router(kind: str) -> dict:
    params = {"num_channels": 256, "normalization_type": "group-32", "gate_type": "2layer-fc-SiLu"}
    return {"target": f"{MODULES}.{kind}", "params": params}


def budget_section(kind: str, **params) -> dict:
    return {"budget_loss_config": {"target": f"{MODULES}.budget.{kind}", "params": params}, "disc_start": 0}


def dual_feature() -> dict:
    loss = budget_section(
        BUDGETS["dqvae_feature"], target_ratio=0.5, gamma=10.0, min_grain_size=16, max_grain_size=32, calculate_all=True
    )
    encoder = {"ch_mult": [1, 1, 2, 2, 4], "attn_resolutions": [16, 32]}
    router = feature_router("RouterDual.DualGrainFeatureRouter")
    return official("EncoderDual.DualGrainEncoder", loss, router, encoder, "dqvae_dual_feat.DualGrainVQModel")


def dual_entropy() -> dict:
    path = "scripts/tools/thresholds/entropy_thresholds_imagenet_train_patch-16.json"
    router = {
        "target": f"{MODULES}.RouterDual.DualGrainFixedEntropyRouter",
        "params": {"json_path": path, "fine_grain_ratito": 0.5},
    }
    encoder = {"ch_mult": [1, 1, 2, 2, 4], "attn_resolutions": [16, 32], "update_router": False}
    model = official(
        "EncoderDual.DualGrainEncoder", {"disc_start": 0}, router, encoder, "dqvae_dual_entropy.DualGrainVQModel"
    )
    model["params"] |= {"entropy_patch_size": 16, "image_size": 256}
    return model


def triple_feature() -> dict:
    loss = budget_section(
        BUDGETS["dqvae_triple"],
        **{"target_fine_ratio": 0.3, "target_median_ratio": 0.2, "gamma": 1.0},
        **{"min_grain_size": 8, "median_grain_size": 16, "max_grain_size": 32},
    )
    encoder = {"ch_mult": [1, 1, 2, 2, 4, 4], "attn_resolutions": [8, 16, 32]}
    router = feature_router("RouterTriple.TripleGrainFeatureRouter")
    return official("EncoderTriple.TripleGrainEncoder", loss, router, encoder, "dqvae_triple_feat.TripleGrainVQModel")


@pytest.mark.parametrize(
    ("name", "make", "total", "encoder"),
    [
        ("dqvae-dual-r-05_imagenet", dual_feature, 48_098_437, 33_306_882),
        ("dqvae-entropy-dual-r05_imagenet", dual_entropy, 47_833_731, 33_306_882 - 264_706),
        ("dqvae-triple-r-03-03_imagenet", triple_feature, 74_010_502, 59_218_947),
    ],
)
def test_official_keys_shapes_and_parameter_counts(name, make, total, encoder):
    config = dqvae_config(make())
    model = jax.eval_shape(config.init, jax.random.key(0))
    ours = {entry.key: list(entry.shape) for entry in entries(model)}
    ours["quantize.codebook.weight"] = [config.codebook_size + 1, config.embed_dim]
    assert ours == json.loads((HERE / "keys" / "dq" / f"{name}.json").read_text())
    size = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))  # noqa: E731
    assert size(model.network.encoder) == encoder
    assert size(model.network) + 1025 * 256 == total


def test_official_files_become_configs():
    config = dqvae_config(dual_feature())
    assert config.routing.ratios == (0.5,)
    assert config.routing.budget_weight == 10
    assert config.grids == (16, 32)
    assert (config.routing.groups, config.routing.layers, config.routing.activation) == (32, 2, "silu")
    assert dqvae_config(triple_feature()).routing.ratios == (0.2, 0.3)
    assert dqvae_config(triple_feature()).grids == (8, 16, 32)
    entropy = dual_entropy()
    assert dqvae_config(entropy).routing.thresholds == (1.6777750253677368,)
    router = entropy["params"]["encoderconfig"]["params"]["router_config"]["params"]
    router["fine_grain_ratio"] = router.pop("fine_grain_ratito")
    assert dqvae_config(entropy) == dqvae_config(dual_entropy())
    once = dual_feature()
    once["params"]["lossconfig"]["params"]["budget_loss_config"]["params"]["calculate_all"] = False
    assert dqvae_config(once).routing.budget_weight == 5
    frozen = dual_entropy()
    frozen["params"]["lossconfig"] = {"target": "modules.losses.vqperceptual.DummyLoss"}
    assert dqvae_config(frozen) == dqvae_config(dual_entropy())


def at(tree: dict, path: str) -> dict:
    for key in path.split("."):
        tree = tree[key]
    return tree


@pytest.mark.parametrize(
    ("make", "where", "change", "message"),
    [
        (dual_feature, "params", {"codebok": 1}, "model.params.codebok"),
        (dual_feature, "params.encoderconfig.params", {"chs": 1}, "encoderconfig.params.chs"),
        (dual_feature, "params.vqconfig.params", {"codes": 1}, "vqconfig.params.codes"),
        (dual_feature, "params.lossconfig.params", {"disc": 1}, "lossconfig.params.disc"),
        (dual_feature, "params.vqconfig", {"target": "x.MaskVectorQuantize"}, "vqconfig.target"),
        (dual_feature, "", {"target": "models.stage1.vqgan.VQModel"}, "model.target"),
        (dual_feature, "params.encoderconfig.params", {"dropout": 0.1}, "encoderconfig.params.dropout is 0.1"),
        (dual_feature, "params.encoderconfig.params", {"update_router": False}, "update_router"),
        (
            dual_feature,
            "params.decoderconfig.params",
            {"latent_size": 16},
            "decoderconfig.params.latent_size is 16: expected 32",
        ),
        (dual_feature, "params.decoderconfig.params", {"position_type": "relative"}, "position_type"),
        (dual_feature, "params", {"quant_after_dim": 128}, "quant_after_dim is 128"),
        (dual_feature, "params.encoderconfig.params.router_config.params", {"gate_type": "3layer"}, "gate_type"),
        (dual_feature, "params.encoderconfig.params.router_config.params", {"normalization_type": "x"}, "group-"),
        (dual_feature, "params.lossconfig.params.budget_loss_config.params", {"max_grain_size": 64}, "grain sizes"),
        (
            dual_feature,
            "params.lossconfig.params.budget_loss_config.params",
            {"target_ratio": 1.5},
            r"budget_loss_config\.params \(1\.5,\) of finer grains must lie in",
        ),
        (dual_entropy, "params", {"entropy_patch_size": 8}, "entropy_patch_size is 8"),
        (
            dual_entropy,
            "params.encoderconfig.params.router_config.params",
            {"fine_grain_ratito": 1.5},
            r"^model\.params\.encoderconfig\.params\.router_config\.params\.fine_grain_ratito is 1\.5: expected",
        ),
        (
            dual_entropy,
            "params.encoderconfig.params.router_config.params",
            {"fine_grain_ratito": 0.45},
            "not known here",
        ),
        (dual_entropy, "params.encoderconfig.params.router_config.params", {"json_path": "x.json"}, "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_refused(make, where, change, message):
    model = make()
    (at(model, where) if where else model).update(change)
    with pytest.raises(InputError, match=message):
        dqvae_config(model)


def test_tables_of_other_patches_or_bins_are_refused(tmp_path):
    with pytest.raises(InputError, match="patches of 16, not 8"):
        Entropy().threshold("entropy_thresholds_imagenet_train_patch-16.json", 0.5, 8)
    path = tmp_path / "thresholds.json"
    write_thresholds(path, dict.fromkeys(range(1, 100), 1.0), "-1_1", 16)
    with pytest.raises(InputError, match="bins -1_1"):
        Entropy().threshold(str(path), 0.5, 16)
    assert Entropy("-1_1").threshold(str(path), 0.5, 16) == 1.0
    with pytest.raises(InputError, match="entropy_bins is '0_2': expected one of 0_1, -1_1"):
        Entropy("0_2")


def test_tables_in_the_official_form_are_found_beside_the_yaml_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    official_table(tmp_path / "patch-8.json", {k: float(k) for k in range(1, 100)})
    for path in ("patch-8.json", "scripts/tools/thresholds/patch-8.json", str(tmp_path / "patch-8.json")):
        beside = Entropy("-1_1", tmp_path)
        assert [beside.threshold(path, ratio, 8) for ratio in (0.5, 0.55, 0.56, 0.0)] == [50, 44, 43, math.inf]
    with pytest.raises(InputError, match=r"'patch-8\.json' cannot be read: put it beside the YAML file"):
        Entropy().threshold("patch-8.json", 0.5, 8)


@pytest.mark.parametrize(
    ("kind", "ours", "size"), [("learned", "unapplied", 16), ("learned-relative", "unapplied-relative", 2)]
)
def test_tables_of_positions_that_the_reference_never_adds_are_held(kind, ours, size):
    golden = Golden("dq/dqvae_dual_feature")
    model = section(golden)
    model["params"]["decoderconfig"]["params"]["position_type"] = kind
    config = dqvae_config(model)
    assert config.position == ours
    state = {key: x for key, x in golden.state_dict().items() if "position_bias" not in key}
    tables = {f"decoder.position_bias.{name}_embed.weight": np.ones((size, 32), np.float32) for name in ("row", "col")}
    loaded = import_model({**state, **tables, "loss.discriminator.main.0.weight": np.ones(3)}, config)
    found = to_torch(loaded)
    assert set(found) == set(state | tables)
    assert all(np.array_equal(found[key], x) for key, x in (state | tables).items())
    with pytest.raises(InputError, match="never adds: export it to safetensors"):
        to_torch(dataclasses.replace(loaded, config=dataclasses.replace(config, position=kind)))
