import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rqjax.dq.grains import POSITIONS, UNAPPLIED, FourierPosition, LearnedPosition, PositionalDecoder
from rqjax.dq.router import FeatureRouter
from rqjax.dq.routing import budget
from rqjax.dq.vae import DQVAE
from rqjax.errors import InputError
from rqjax.nets.autoencoder import LevelConfig
from rqjax.official.convert import import_model, to_torch
from rqjax.quantize import dynamic
from rqjax.store.arrays import to_arrays
from tests.conftest import assert_near
from tests.small_dq import routed_by, tokenizer_config

HERE = pathlib.Path(__file__).parents[1]


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
    "checkerboard": {"grains": 2, "router": "checkerboard", "budget_weight": 0.0, "ratios": (0.5,)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_router_trains_and_keeps_images_apart(variant):
    config = tokenizer_config(**VARIANTS[variant])
    config.check()
    model, image = jax.jit(config.init)(jax.random.key(1)), images()
    encode = jax.jit(DQVAE.encode)
    whole, among_others = encode(model, image), encode(model, images(seed=1).at[1].set(image[1]))
    np.testing.assert_array_equal(whole.codes[1], among_others.codes[1])
    np.testing.assert_array_equal(whole.grain[1], among_others.grain[1])
    assert not np.array_equal(whole.codes, among_others.codes)
    block, grain = config.grids[-1] // config.grids[0], np.asarray(whole.grain)
    for b, y, x in np.ndindex(grain.shape):  # a region repeats each of its codes over the cells that share it
        region = whole.codes[b, y * block : (y + 1) * block, x * block : (x + 1) * block]
        side = block >> int(grain[b, y, x])
        np.testing.assert_array_equal(region, region[::side, ::side].repeat(side, 0).repeat(side, 1))
    forward = jax.jit(lambda m, x: m.train_forward(x, jax.random.key(0)))(model, image)
    assert forward.reconstruction.shape == image.shape
    last = model.network.decoder.conv_out(forward.features)
    np.testing.assert_allclose(last, forward.reconstruction, atol=1e-5)
    if config.routing.exact_ratio:
        for g in range(1, config.grains):
            assert ((whole.grain == g).mean((1, 2)) == 0.25).all()
        assert float(forward.metrics["fine_fraction"]) == 0.25
    if variant == "checkerboard":
        assert (grain == np.indices((4, 4)).sum(0) % 2).all()
        assert float(forward.metrics["codes_per_image"]) == 8 * 1 + 8 * 4


@pytest.mark.parametrize("variant", ["dual", "triple", "exact"])
def test_the_router_learns_from_the_task_and_from_the_budget(variant):
    model, image = jax.jit(tokenizer_config(**VARIANTS[variant]).init)(jax.random.key(1)), images()

    def loss(network, weight):
        forward = model.with_trained(network).train_forward(image, jax.random.key(0))
        return jnp.mean(jnp.abs(forward.reconstruction - image)) + weight * forward.metrics["budget"]

    gradient = jax.jit(jax.grad(loss))
    task, both = (gradient(model.network, w).encoder.router.gate[-1].kernel[...] for w in (0.0, 1.0))
    assert float(jnp.abs(task).max()) > 0
    if variant != "exact":
        assert float(jnp.abs(both - task).max()) > 0


def test_evaluation_is_not_scaled_and_draws_nothing():
    model, image = jax.jit(tokenizer_config().init)(jax.random.key(1)), images()
    routed = jax.jit(routed_by)(model, image)
    features = jax.jit(lambda m, x: m.network.encoder(x))(model, image)
    np.testing.assert_allclose(routed.merged, dynamic.merge_grains(features, routed.grain), rtol=1e-6)
    np.testing.assert_array_equal(routed.grain, jnp.argmax(routed.gate, -1))
    forward = jax.jit(lambda m, x, key: m.train_forward(x, key))
    first, second = (forward(model, image, jax.random.key(k)).reconstruction for k in (0, 1))
    assert not np.array_equal(first, second)


def test_training_lowers_the_loss():
    config = dataclasses.replace(tokenizer_config(), restart_threshold=0.1, decay=0.9)
    model, image = jax.jit(config.init)(jax.random.key(0)), images(4)

    @jax.jit
    def step(model, key):
        def loss(network):
            forward = model.with_trained(network).train_forward(image, key)
            return jnp.mean(jnp.square(forward.reconstruction - image)) + forward.loss, forward

        (value, forward), grads = jax.value_and_grad(loss, has_aux=True)(model.network)
        network = jax.tree.map(lambda p, g: p - 0.05 * g, model.network, grads)
        return model.with_trained(network).with_quantizer(forward.quantizer), value

    values = []
    for i in range(40):
        model, value = step(model, jax.random.key(i))
        values.append(float(value))
    assert np.mean(values[-10:]) < 0.8 * np.mean(values[:10])


def test_budget_is_zero_at_its_target():
    routing = tokenizer_config().routing
    gate = jax.nn.one_hot(jnp.zeros((1, 4, 4), jnp.int32).at[0, 0].set(1), 2)
    assert float(budget(routing, gate)) == 0
    assert float(budget(dataclasses.replace(routing, ratios=(0.5,)), gate)) == pytest.approx(2 * 0.25**2)


def test_bfloat16_and_remat_keep_the_codes_nearly():
    config, image = tokenizer_config(), images()
    model = jax.jit(config.init)(jax.random.key(0))
    other = dataclasses.replace(config, dtype="bfloat16", remat=True)
    other = jax.jit(other.init)(jax.random.key(0))
    forward = jax.jit(lambda m, x: m.train_forward(x, jax.random.key(0)))
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


@pytest.mark.parametrize("position", POSITIONS)
def test_decoder_positions(position):
    sizes = {"ch": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": (), "resolution": 4, "z_channels": 2}
    settings = LevelConfig(**sizes, dtype="float32", remat=False)
    decoder = PositionalDecoder(settings, position=position, latent_size=4, window_size=2, rngs=nnx.Rngs(0))
    names = {path.split("/")[0] for path in to_arrays(decoder)}
    assert ("position_bias_fourier" in names) == ("fourier" in position)
    assert ("position_bias_learned" in names) == (position not in ("none", "fourier"))
    if position in UNAPPLIED:
        decoder.position_bias_learned = jax.tree.map(lambda x: x * jnp.nan, decoder.position_bias_learned)
    z = jnp.zeros((1, 4, 4, 2))
    middle = decoder(z)[0, 1:3, 1:3]
    assert np.isfinite(middle).all()
    if position not in ("none", *UNAPPLIED):
        assert float(jnp.std(middle, axis=(0, 1)).max()) > 1e-4


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("groups", [0, 4])
@pytest.mark.parametrize("grains", [2, 3])
def test_router_keys(grains, groups, layers):
    config = tokenizer_config(grains, groups=groups, layers=layers, activation="relu")
    model = jax.tree.map(lambda x: np.ones(x.shape) * x.size, jax.eval_shape(config.init, jax.random.key(0)))
    names = {key.removeprefix("encoder.router.") for key in to_torch(model) if "router" in key}
    gates = (
        {"gate.weight", "gate.bias"} if layers == 1 else {f"gate.{i}.{x}" for i in (0, 2) for x in ("weight", "bias")}
    )
    grain_names = ("coarse", "median", "fine") if grains == 3 else ("coarse", "fine")
    norms = {f"feature_norm_{g}.{x}" for g in grain_names for x in ("weight", "bias")} if groups else set()
    assert names == gates | norms
    again = import_model(to_torch(model), config)
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
        ({"commitment_weight": -0.25}, "commitment_weight is -0.25"),
        ({"dtype": "float16"}, "dtype"),
        ({"codebook_size": 0}, "codebook_size"),
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
        ({"router": "checkerboard", "budget_weight": 0.0}, "half of the regions"),
        ({"router": "checkerboard", "ratios": (0.5,)}, "half of the regions"),
    ],
)
def test_values_that_make_no_model_are_refused(change, message):
    config = tokenizer_config()
    config.check()
    for name, value in change.items():
        setattr(config.routing if hasattr(config.routing, name) else config, name, value)
    with pytest.raises(InputError, match=message):
        config.check()


def test_images_of_another_size_are_refused():
    model = jax.eval_shape(tokenizer_config().init, jax.random.key(0))
    for call in (model.encode, model.reconstruct, lambda x: model.train_forward(x, jax.random.key(0))):
        with pytest.raises(InputError, match="expects 8x8"):
            call(jnp.zeros((1, 16, 16, 3)))


def test_the_quantizer_is_replaced():
    model = jax.jit(tokenizer_config().init)(jax.random.key(0))
    book = dataclasses.replace(model.quantizer, embed=jnp.ones((16, 4)), count=jnp.ones(16), total=jnp.ones((16, 4)))
    assert model.with_quantizer(book).quantizer is book
    assert int(jax.jit(DQVAE.encode)(model.with_quantizer(book), images()).codes.max()) == 0


def test_a_model_keeps_the_configuration_it_was_made_from():
    config = tokenizer_config()
    config.routing.ratios = [0.25]
    model = jax.eval_shape(config.init, jax.random.key(0))
    config.routing.ratios = (0.5,)
    config.decay = 0.5
    assert (model.config.routing.ratios, model.config.decay) == ((0.25,), 0.99)
    assert hash(model.config) == hash(tokenizer_config())


def test_progress_is_one_step():
    model, image = jax.jit(tokenizer_config().init)(jax.random.key(1)), images()
    steps, whole = jax.jit(lambda m, x: (m.progressive(x), m.reconstruct(x)))(model, image)
    np.testing.assert_array_equal(steps, whole[None])
