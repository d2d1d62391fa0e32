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
from conftest import Golden, assert_digests, digest, noise_keys
from flax import nnx

from rqjax.arrays import to_arrays
from rqjax.errors import InputError
from rqjax.models.dqvae import DQVAE, DQVAEConfig
from rqjax.models.routing import RoutingConfig, budget
from rqjax.nets.grains import FourierPosition, LearnedPosition, PositionalDecoder
from rqjax.nets.router import FeatureRouter
from rqjax.pytorch.dqvae import dqvae_config, dqvae_from_torch, dqvae_to_torch, entries
from rqjax.pytorch.table import export_arrays
from rqjax.quantize import dynamic
from rqjax.quantize.codebook import Codebook
from rqjax.quantize.entropy import ThresholdTable, write_thresholds
from rqjax.quantize.sequence import from_streams, sequence_layout, to_streams

HERE = pathlib.Path(__file__).parent
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


@functools.cache
def load(case: str, folder: pathlib.Path) -> tuple[Golden, DQVAEConfig, DQVAE]:
    golden = Golden(f"dq/{case}")
    path, bins = folder / "thresholds.json", "0_1"
    if entropy := golden.meta["entropy"]:
        bins = "-1_1"
        values = dict.fromkeys(range(1, 100), entropy["threshold"])
        write_thresholds(path, ThresholdTable(values=values, bins=bins, patch=entropy["patch"]))
    config = dqvae_config(section(golden, str(path)), bins)
    return golden, config, jax.tree.map(jnp.asarray, dqvae_from_torch(golden.state_dict(), config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("thresholds")


@pytest.fixture(params=CASES)
def case(request, folder):
    return load(request.param, folder)


def nhwc(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def assert_near(ours, expected, tolerance=1e-4):
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert ours.shape == expected.shape
    assert np.linalg.norm(ours - expected) <= tolerance * np.linalg.norm(expected)


def test_evaluation_equals_the_official_one(case):
    golden, _, model = case
    data, image = golden.data, nhwc(golden.data["x"])
    routed = jax.jit(DQVAE.route)(model, image)
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
            forward = model.train_forward(network, image, jax.random.key(0), noise)
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
    official = dqvae_to_torch(model.with_codebooks(forward.codebooks))
    assert_near(official["quantize.codebook.cluster_size_ema"], data["ema1_cluster_size"])
    for name, value in golden.meta["ema_after_one_step"].items():
        ours = digest(name, official[f"quantize.codebook.{name}"])
        np.testing.assert_allclose(ours, value, rtol=0, atol=1e-3 * value[0])


def test_the_state_dict_comes_back(case):
    golden, _, model = case
    back, there = dqvae_to_torch(model), golden.state_dict()
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
    ours["quantize.codebook.weight"] = [config.codes + 1, config.embed_dim]
    assert ours == json.loads((HERE / "keys" / "dq" / f"{name}.json").read_text())
    size = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))  # noqa: E731
    assert size(model.network.encoder) == encoder
    assert size(model.network) + 1025 * 256 == total


def test_official_files_become_configs():
    config = dqvae_config(dual_feature())
    assert config.routing.ratios == (0.5,)
    assert config.routing.budget_weight == 10
    assert (config.grids, config.patch) == ((16, 32), 16)
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
        (dual_feature, "params.encoderconfig.params", {"chs": 1}, "encoder.chs"),
        (dual_feature, "params.vqconfig.params", {"codes": 1}, "quantizer.codes"),
        (dual_feature, "params.lossconfig.params", {"disc": 1}, "loss.disc"),
        (dual_feature, "params.vqconfig", {"target": "x.MaskVectorQuantize"}, "vqconfig.target"),
        (dual_feature, "", {"target": "models.stage1.vqgan.VQModel"}, "model.target"),
        (dual_feature, "params.encoderconfig.params", {"dropout": 0.1}, "encoder.dropout"),
        (dual_feature, "params.encoderconfig.params", {"update_router": False}, "update_router"),
        (dual_feature, "params.decoderconfig.params", {"latent_size": 16}, "decoder.latent_size is 16"),
        (dual_feature, "params.decoderconfig.params", {"position_type": "relative"}, "position_type"),
        (dual_feature, "params", {"quant_after_dim": 128}, "quant_after_dim is 128"),
        (dual_feature, "params.encoderconfig.params.router_config.params", {"gate_type": "3layer"}, "gate_type"),
        (dual_feature, "params.encoderconfig.params.router_config.params", {"normalization_type": "x"}, "group-"),
        (dual_feature, "params.lossconfig.params.budget_loss_config.params", {"max_grain_size": 64}, "grain sizes"),
        (dual_feature, "params.lossconfig.params.budget_loss_config.params", {"target_ratio": 1.5}, "ratios"),
        (dual_entropy, "params", {"entropy_patch_size": 8}, "entropy_patch_size is 8"),
        (dual_entropy, "params.encoderconfig.params.router_config.params", {"fine_grain_ratito": 1.5}, "outside"),
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


def test_tables_of_other_bins_are_refused():
    with pytest.raises(InputError, match="bins 0_1"):
        dqvae_config(dual_entropy(), "-1_1")


def small(grains: int = 2, **routing) -> DQVAEConfig:
    settings = {"router": "feature", "exact_ratio": False, "ratios": (0.25,) * (grains - 1), "budget_weight": 1.0}
    settings |= {"groups": 4, "layers": 2, "activation": "silu", "entropy_bins": "-1_1", "thresholds": ()}
    return DQVAEConfig(
        resolution=8,
        ch=8,
        ch_mult=(1,) * grains,
        num_res_blocks=1,
        attn_resolutions=(),
        decoder_ch=8,
        decoder_ch_mult=(1,),
        decoder_num_res_blocks=1,
        decoder_attn_resolutions=(),
        position="fourier+learned",
        window_size=2,
        z_channels=8,
        embed_dim=4,
        codes=16,
        decay=0.99,
        restart_threshold=1.0,
        commitment_weight=0.25,
        grains=grains,
        routing=RoutingConfig(**settings | routing),
        dtype="float32",
        remat=False,
    )


def images(batch=3, seed=0):
    return jax.random.uniform(jax.random.key(seed), (batch, 8, 8, 3), minval=-1)


VARIANTS = {
    "dual": {"grains": 2},
    "triple": {"grains": 3},
    "exact": {"grains": 2, "exact_ratio": True},
    "triple exact": {"grains": 3, "exact_ratio": True},
    "entropy": {"grains": 2, "router": "entropy", "budget_weight": 0.0, "thresholds": (1.3,)},
    "triple entropy": {"grains": 3, "router": "entropy", "budget_weight": 0.0, "thresholds": (1.9, 2.2)},
    "entropy exact": {"grains": 2, "router": "entropy", "budget_weight": 0.0, "exact_ratio": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_router_trains_and_keeps_images_apart(variant):
    config = small(**VARIANTS[variant])
    config.check()
    model, image = jax.jit(config.init)(jax.random.key(1)), images()
    encode = jax.jit(DQVAE.encode)
    whole, among_others = encode(model, image), encode(model, images(seed=1).at[1].set(image[1]))
    np.testing.assert_array_equal(whole.codes[1], among_others.codes[1])
    np.testing.assert_array_equal(whole.grain[1], among_others.grain[1])
    assert not np.array_equal(whole.codes, among_others.codes)
    layout = sequence_layout(model.grids, config.codes, 0, "row-first")
    codes, grain, _ = from_streams(to_streams(whole.codes, whole.grain, layout), layout)
    np.testing.assert_array_equal(codes, whole.codes)
    np.testing.assert_array_equal(grain, whole.grain)
    forward = jax.jit(lambda m, x: m.train_forward(m.network, x, jax.random.key(0)))(model, image)
    assert forward.reconstruction.shape == image.shape
    last = model.network.decoder.conv_out(forward.features)
    np.testing.assert_allclose(last, forward.reconstruction, atol=1e-5)
    if config.routing.exact_ratio:
        for g in range(1, config.grains):
            assert ((whole.grain == g).mean((1, 2)) == 0.25).all()
        assert float(forward.metrics["fine_fraction"]) == 0.25


@pytest.mark.parametrize("variant", ["dual", "triple", "exact"])
def test_the_router_learns_from_the_task_and_from_the_budget(variant):
    model, image = jax.jit(small(**VARIANTS[variant]).init)(jax.random.key(1)), images()

    def loss(network, weight):
        forward = model.train_forward(network, image, jax.random.key(0))
        return jnp.mean(jnp.abs(forward.reconstruction - image)) + weight * forward.metrics["budget"]

    gradient = jax.jit(jax.grad(loss))
    task, both = (gradient(model.network, w).encoder.router.gate[-1].kernel[...] for w in (0.0, 1.0))
    assert float(jnp.abs(task).max()) > 0
    if variant != "exact":
        assert float(jnp.abs(both - task).max()) > 0


def test_evaluation_is_not_scaled_and_draws_nothing():
    model, image = jax.jit(small().init)(jax.random.key(1)), images()
    routed = jax.jit(DQVAE.route)(model, image)
    features = jax.jit(lambda m, x: m.network.encoder(x))(model, image)
    np.testing.assert_allclose(routed.merged, dynamic.merge_grains(features, routed.grain), rtol=1e-6)
    np.testing.assert_array_equal(routed.grain, jnp.argmax(routed.gate, -1))
    forward = jax.jit(lambda m, x, key: m.train_forward(m.network, x, key))
    first, second = (forward(model, image, jax.random.key(k)).reconstruction for k in (0, 1))
    assert not np.array_equal(first, second)


def test_training_lowers_the_loss():
    config = dataclasses.replace(small(), restart_threshold=0.1, decay=0.9)
    model, image = jax.jit(config.init)(jax.random.key(0)), images(4)

    @jax.jit
    def step(model, key):
        def loss(network):
            forward = model.train_forward(network, image, key)
            return jnp.mean(jnp.square(forward.reconstruction - image)) + forward.loss, forward

        (value, forward), grads = jax.value_and_grad(loss, has_aux=True)(model.network)
        network = jax.tree.map(lambda p, g: p - 0.05 * g, model.network, grads)
        return dataclasses.replace(model, network=network, codebooks=forward.codebooks), value

    values = []
    for i in range(40):
        model, value = step(model, jax.random.key(i))
        values.append(float(value))
    assert np.mean(values[-10:]) < 0.8 * np.mean(values[:10])


def test_budget_is_zero_at_its_target():
    routing = small().routing.settings((4, 8), 8)
    gate = jax.nn.one_hot(jnp.zeros((1, 4, 4), jnp.int32).at[0, 0].set(1), 2)
    assert float(budget(routing, gate)) == 0
    assert float(budget(dataclasses.replace(routing, targets=(0.5,)), gate)) == pytest.approx(2 * 0.25**2)


def test_bfloat16_and_remat_keep_the_codes_nearly():
    config, image = small(), images()
    model = jax.jit(config.init)(jax.random.key(0))
    other = dataclasses.replace(config, dtype="bfloat16", remat=True)
    other = jax.jit(other.init)(jax.random.key(0))
    forward = jax.jit(lambda m, x: m.train_forward(m.network, x, jax.random.key(0)))
    plain, low = forward(model, image), forward(other, image)
    assert low.reconstruction.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(other.network))
    assert_near(low.reconstruction, plain.reconstruction, 0.2)


def test_golden_fourier_map():
    case = json.loads((HERE / "golden" / "dq" / "scalars.json").read_text())["fourier"]
    layer = FourierPosition(3, rngs=nnx.Rngs(0))
    layer.conv.kernel[...] = jnp.asarray(case["W"], jnp.float32).T.reshape(1, 1, 2, 3)
    layer.conv.bias[...] = jnp.asarray(case["b"], jnp.float32)
    found = layer(jnp.zeros((1, case["size"], case["size"], 3)))
    np.testing.assert_allclose(found[0].transpose(2, 0, 1), case["out_CHW_for_zero_input"], atol=1e-5)


def test_learned_positions_tell_rows_from_columns_and_repeat_over_windows():
    layer = LearnedPosition(2, 3, rngs=nnx.Rngs(0))
    found = layer(jnp.zeros((1, 4, 4, 3)))[0]
    row, column = layer.row_embed.embedding[...], layer.col_embed.embedding[...]
    for y in range(4):
        for x in range(4):
            np.testing.assert_allclose(found[y, x], row[y % 2] + column[x % 2], rtol=1e-6)
    assert float(jnp.abs(row).max()) <= 2


@pytest.mark.parametrize("position", ["none", "fourier", "learned", "learned-relative", "fourier+learned"])
def test_decoder_positions(position):
    sizes = {"ch": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": (), "resolution": 4, "z_channels": 2}
    places = {"position": position, "latent_size": 4, "window_size": 2}
    decoder = PositionalDecoder(**sizes, **places, dtype=jnp.float32, remat=False, rngs=nnx.Rngs(0))
    names = {path.split("/")[0] for path in to_arrays(decoder)}
    assert ("position_bias_fourier" in names) == ("fourier" in position)
    assert ("position_bias_learned" in names) == ("learned" in position)
    z = jnp.zeros((1, 4, 4, 2))
    middle = decoder(z)[0, 1:3, 1:3]
    assert np.isfinite(middle).all()
    if position != "none":
        assert float(jnp.std(middle, axis=(0, 1)).max()) > 1e-4


def test_positions_that_the_reference_never_applied_are_dropped_on_loading():
    golden = Golden("dq/dqvae_dual_feature")
    model = section(golden)
    model["params"]["decoderconfig"]["params"]["position_type"] = "learned"
    config = dqvae_config(model)
    assert config.position == "none"
    state = {key: x for key, x in golden.state_dict().items() if "position_bias" not in key}
    unused = {f"decoder.position_bias.{name}_embed.weight": np.ones((16, 32), np.float32) for name in ("row", "col")}
    loaded = dqvae_from_torch({**state, **unused, "loss.discriminator.main.0.weight": np.ones(3)}, config)
    assert set(dqvae_to_torch(loaded)) == set(state)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("groups", [0, 4])
@pytest.mark.parametrize("grains", [2, 3])
def test_router_keys(grains, groups, layers):
    config = small(grains, groups=groups, layers=layers, activation="relu")
    model = jax.tree.map(lambda x: np.ones(x.shape) * x.size, jax.eval_shape(config.init, jax.random.key(0)))
    names = {key.removeprefix("encoder.router.") for key in dqvae_to_torch(model) if "router" in key}
    gates = (
        {"gate.weight", "gate.bias"} if layers == 1 else {f"gate.{i}.{x}" for i in (0, 2) for x in ("weight", "bias")}
    )
    grain_names = ("coarse", "median", "fine") if grains == 3 else ("coarse", "fine")
    norms = {f"feature_norm_{g}.{x}" for g in grain_names for x in ("weight", "bias")} if groups else set()
    assert names == gates | norms
    again = dqvae_from_torch(dqvae_to_torch(model), config)
    for path, x in to_arrays(model).items():
        np.testing.assert_array_equal(x, to_arrays(again)[path], err_msg=path)


def test_router_averages_each_region():
    router = FeatureRouter(2, 2, groups=0, layers=1, activation="silu", rngs=nnx.Rngs(0))
    coarse, fine = (
        jax.random.normal(jax.random.key(0), (1, 2, 2, 2)),
        jax.random.normal(jax.random.key(1), (1, 4, 4, 2)),
    )
    logits = router((coarse, fine))
    moved = router((coarse, fine.at[0, 0, 0].add(1.0).at[0, 1, 1].add(-1.0)))
    np.testing.assert_allclose(moved, logits, atol=1e-6)
    layer = router.gate[0]
    mean = jnp.concatenate([coarse[0, 1, 0], fine[0, 2:, :2].mean((0, 1))])
    np.testing.assert_allclose(logits[0, 1, 0], mean @ layer.kernel[...] + layer.bias[...], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grains": 4}, "grains is 4"),
        ({"resolution": 9}, "do not divide"),
        ({"decoder_ch_mult": (1, 1)}, "decoder_ch_mult"),
        ({"attn_resolutions": (5,)}, "never occur"),
        ({"position": "relative"}, "position"),
        ({"position": "learned-relative", "window_size": 3}, "windows of 3"),
        ({"decay": 1.0}, "decay"),
        ({"dtype": "float16"}, "dtype"),
        ({"codes": 0}, "codes"),
        ({"ratios": (1.2,)}, "ratios"),
        ({"ratios": (0.2, 0.3)}, "ratios"),
        ({"groups": 3}, "groups 3"),
        ({"layers": 3}, "3 layers"),
        ({"router": "random"}, "router"),
        ({"entropy_bins": "0_2"}, "entropy_bins"),
        ({"thresholds": (1.0,)}, "thresholds"),
        ({"router": "entropy", "thresholds": (1.0,)}, "budget_weight"),
        ({"router": "entropy", "budget_weight": 0.0, "thresholds": ()}, "expected 1 here"),
        ({"router": "entropy", "budget_weight": 0.0, "thresholds": (math.nan,)}, "ascending"),
    ],
)
def test_values_that_make_no_model_are_refused(change, message):
    config = small()
    config.check()
    for name, value in change.items():
        setattr(config.routing if hasattr(config.routing, name) else config, name, value)
    with pytest.raises(InputError, match=message):
        config.check()


def test_images_of_another_size_are_refused():
    model = jax.eval_shape(small().init, jax.random.key(0))
    for call in (model.encode, model.reconstruct, lambda x: model.train_forward(model.network, x, jax.random.key(0))):
        with pytest.raises(InputError, match="expects 8x8"):
            call(jnp.zeros((1, 16, 16, 3)))


def test_thresholds_come_from_a_table_of_the_same_bins(tmp_path):
    config = small(3, router="entropy", budget_weight=0.0, ratios=(0.2, 0.3))
    values = {k: k / 10 for k in range(1, 100)}
    write_thresholds(tmp_path / "t.json", ThresholdTable(values=values, bins="-1_1", patch=4))
    config.routing.thresholds = config.routing.table_thresholds(tmp_path / "t.json", config.patch)
    assert config.routing.thresholds == (5.0, 7.0)
    config.check()
    config.routing.entropy_bins = "0_1"
    with pytest.raises(InputError, match="bins"):
        config.routing.table_thresholds(tmp_path / "t.json", config.patch)


def test_codebooks_are_replaced():
    model = jax.jit(small().init)(jax.random.key(0))
    book = Codebook(embed=jnp.ones((16, 4)), count=jnp.ones(16), total=jnp.ones((16, 4)))
    assert model.with_codebooks((book,)).codebooks[0] is book
    assert int(jax.jit(DQVAE.encode)(model.with_codebooks((book,)), images()).codes.max()) == 0
