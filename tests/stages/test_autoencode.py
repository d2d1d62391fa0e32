import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax.data.images import to_float
from rqjax.errors import InputError
from rqjax.mesh import make_mesh, shard_state
from rqjax.nets.discriminator import adaptive_weight, discriminator_loss, generator_loss
from rqjax.nets.lpips import LPIPS
from rqjax.optim import OptimizerConfig, ema_update
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.run.skips import unguarded
from rqjax.stages.autoencode import AutoencodeConfig, reconstruction_loss
from rqjax.stages.measure import error_maps
from rqjax.store.arrays import to_arrays
from tests.conftest import rounding
from tests.small_rq import tokenizer_config
from tests.toy_tokenizer import ToyConfig


def rqvae_config(**changes) -> RQVAEConfig:
    sizes = {"resolution": 16, "ch": 8, "ch_mult": (1, 2), "codebook_size": (32,), "depth": 2, "code_shape": (8, 8)}
    return tokenizer_config(**sizes | {"decay": (0.9,)} | changes)


def config(**changes) -> AutoencodeConfig:
    optimizer = OptimizerConfig(learning_rate=2e-3)
    base = AutoencodeConfig(
        model=ToyConfig(),
        perceptual_weight=0.0,
        disc_ndf=4,
        disc_groups=1,
        optimizer=optimizer,
        discriminator_optimizer=dataclasses.replace(optimizer),
    )
    return dataclasses.replace(base, **changes)


def batch(size: int = 8, seed: int = 0):
    """Blocks of colour with some noise: something that a small net learns quickly."""
    random = np.random.RandomState(seed)
    blocks = random.uniform(40, 215, (size, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    image = (blocks + random.uniform(-20, 20, blocks.shape)).astype(np.uint8)
    return {"image": jnp.asarray(image), "label": jnp.zeros(size, jnp.int32)}


def run(c: AutoencodeConfig, steps: int, frozen=None, total: int = 100):
    """The initial state, that after `steps` steps, and the metrics of each."""
    stage = c.build(total)
    first = jax.jit(stage.init)(jax.random.key(0))
    step = jax.jit(unguarded(stage.propose), donate_argnums=0)
    state, history = jax.tree.map(jnp.copy, first), []
    for k in range(steps):
        state, metrics = step(state, frozen, batch(), jax.random.key(k))
        history.append(metrics)
    return first, state, history


def assert_trees(a, b, **tolerance):
    for name, value in to_arrays(a).items():
        np.testing.assert_allclose(value, to_arrays(b)[name], err_msg=name, **tolerance)


def first_gradient(optimizer, b1: float):
    """Adam's first moment after one step is (1 - b1) times the gradient."""
    return jax.tree.map(lambda m: m / (1 - b1), optax.tree_utils.tree_get(optimizer, "mu"))


# --- the objective


@pytest.fixture(scope="module")
def lpips():
    return LPIPS(rngs=nnx.Rngs(3))


def test_adaptive_weight_is_its_definition_by_the_kernel():
    c = config(reconstruction="l1")
    state = jax.jit(c.build(10).init)(jax.random.key(1))
    network, disc, image = state.model.network, state.discriminator, to_float(batch()["image"])
    features = network.decoder.features(network.encoder(image))

    def at(kernel, loss):
        conv = jax.tree.map(lambda x: x, network.decoder.conv_out)
        conv.kernel = nnx.Param(kernel)
        return loss(conv(features))

    losses = (
        lambda recon: reconstruction_loss(c, None, image, recon)[0],
        lambda recon: generator_loss(disc(recon)),
    )
    kernel = network.decoder.conv_out.kernel[...]
    nll, adversarial = (jnp.linalg.norm(jax.grad(at)(kernel, loss)) for loss in losses)
    recon = network.decoder.conv_out(features)
    ours = adaptive_weight(network.decoder.conv_out, features, *(jax.grad(loss)(recon) for loss in losses))
    assert float(ours) == pytest.approx(float(nll / (adversarial + 1e-4)), rel=1e-5)
    none = jnp.zeros_like(recon)
    assert float(adaptive_weight(network.decoder.conv_out, features, none, none)) == 0
    assert float(adaptive_weight(network.decoder.conv_out, features, 1e9 * recon, none)) == 1e4


@pytest.mark.parametrize(
    ("perceptual_weight", "cap", "adaptive"), [(0.5, 0.0, True), (0.0, 0.01, True), (0.0, 0.0, False)]
)
def test_one_backward_pass_gives_the_gradient_of_the_plain_sum(lpips, perceptual_weight, cap, adaptive):
    c = config(
        perceptual_weight=perceptual_weight,
        vgg16_path="unread",
        disc_weight_max=cap,
        adaptive=adaptive,
        gan="vanilla",
        disc_groups=2,
    )
    stage, key, image = c.build(10), jax.random.key(5), to_float(batch()["image"])
    state = jax.jit(stage.init)(jax.random.key(1))
    after, metrics = jax.jit(unguarded(stage.propose))(state, lpips, batch(), key)
    assert float(metrics["lambda"]) == 1 or adaptive
    factor = jnp.minimum(0.75 * metrics["lambda"], cap or jnp.inf)

    def plain(network, lpips):
        out = state.model.with_trained(network).train_forward(image, jax.random.split(key)[0])
        recon, disc = out.reconstruction, state.discriminator
        seen = jnp.mean((recon - image) ** 2) + out.loss
        seen += perceptual_weight * jnp.mean(lpips(image, recon)) if perceptual_weight else 0
        return seen - factor * jnp.mean(disc(recon, 2)), (seen, recon)

    expected, (seen, recon) = jax.jit(jax.grad(plain, has_aux=True))(state.model.network, lpips)
    assert_trees(first_gradient(after.optimizer, 0.5), expected, atol=2e-6, rtol=1e-4)
    assert float(metrics["loss_total"]) == pytest.approx(float(seen), rel=1e-5)

    def disc_loss(disc):
        return 0.75 * discriminator_loss("vanilla", disc(image, 2), disc(recon, 2))

    value, expected = jax.value_and_grad(disc_loss)(state.discriminator)
    assert_trees(first_gradient(after.disc_optimizer, 0.5), expected, atol=2e-6, rtol=1e-4)
    assert float(metrics["discriminator"]) == pytest.approx(float(value), rel=1e-5)


def test_the_discriminator_waits_for_its_start():
    first, waiting, history = run(config(disc_start=2), 2)
    for name in ("lambda", "adversarial", "discriminator", "logits_real"):
        assert float(history[1][name]) == 0
    assert_trees(waiting.discriminator, first.discriminator, atol=0)
    assert_trees(waiting.disc_optimizer, first.disc_optimizer, atol=0)
    without = run(config(disc_weight=0.0), 2)[1]
    assert_trees(waiting.model, without.model, rtol=1e-6, atol=1e-7)
    _, begun, history = run(config(disc_start=2), 3)
    assert float(history[2]["lambda"]) > 0
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), begun.discriminator, first.discriminator)
    assert all(value for name, value in to_arrays(changed).items() if name.endswith("kernel"))
    assert int(begun.step) == 3


def test_without_weights_there_is_neither_discriminator_nor_lpips():
    stage = config(disc_weight=0.0).build(10)
    state = jax.jit(stage.init)(jax.random.key(0))
    assert state.discriminator is None
    assert state.disc_optimizer is None
    assert stage.frozen_shapes() is None
    _, metrics = jax.jit(unguarded(stage.propose))(state, None, batch(), jax.random.key(0))
    assert set(metrics) == {"loss_total", "reconstruction", "commitment", "gradient_norm", "learning_rate"}


def test_a_second_forward_pass_updates_the_codebooks_twice():
    once, twice = (run(config(codebook_updates_per_step=n), 3)[1] for n in (1, 2))
    assert float(once.model.quantizer) == 3
    assert float(twice.model.quantizer) == 6
    different = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), once.discriminator, twice.discriminator)
    assert any(jax.tree.leaves(different))  # it saw the second reconstruction


def test_ema_averages_the_model_after_each_step():
    c = config(ema_decay=0.15)
    first, one, _ = run(c, 1)
    _, two, _ = run(c, 2)
    expected = ema_update(ema_update(first.model, one.model, 0, 0.15), two.model, 1, 0.15)
    assert_trees(two.ema, expected, atol=1e-7, rtol=1e-6)
    assert float(two.ema.quantizer) == pytest.approx(0.15 * 0.9 + 0.85 * 2)


@pytest.mark.parametrize("changes", [{}, {"codebook_updates_per_step": 2}, {"disc_weight": 0.0, "ema_decay": 0.0}])
def test_a_step_that_is_not_good_leaves_all_but_the_count_as_it_was(changes):
    """Also where gradients are NaN, as here in the first convolution."""
    stage = config(**{"ema_decay": 0.9, "optimizer": OptimizerConfig(clip_norm=1.0)} | changes).build(10)
    state = stage.init(jax.random.key(0))
    state.model.network.encoder.bias[...] = state.model.network.encoder.bias.at[0].set(jnp.nan)

    @jax.jit
    def step(state, good):
        take, metrics = stage.propose(state, None, batch(), jax.random.key(1))
        return take(good), metrics

    after, metrics = step(state, False)
    assert np.isnan(metrics["gradient_norm"])
    assert int(after.step) == 1
    before, after = to_arrays(state), to_arrays(after)
    assert list(before) == list(after)
    assert [name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)] == ["step"]
    taken = to_arrays(step(state, True)[0])
    changed = {name for name in before if not np.array_equal(before[name], taken[name], equal_nan=True)}
    kept = {name for name in before if name.endswith("quantizer") and "ema" not in name} - changed
    assert not kept
    assert changed >= {name for name in before if "optimizer" in name or "discriminator" in name}


# --- whole runs


def on_mesh(c: AutoencodeConfig, devices: int, steps: int = 3):
    stage, mesh = c.build(steps), make_mesh(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        sharding = shard_state(jax.eval_shape(stage.init, jax.random.key(0)), mesh, min_size=64)
        state = jax.jit(stage.init, out_shardings=sharding)(jax.random.key(0))
        rows = NamedSharding(mesh, P("data"))
        step = jax.jit(
            unguarded(stage.propose),
            in_shardings=(sharding, None, rows, None),
            out_shardings=(sharding, NamedSharding(mesh, P())),
            donate_argnums=0,
        )
        for k in range(steps):
            state, metrics = step(state, None, jax.device_put(batch(), rows), jax.random.key(k))
    return jax.device_get((to_arrays(state), metrics))


TERMS = 2 * 25 * 9 * 16 + 8 * 16 * 16
"""Forward and backward, 25 convolutions of 3x3x16 terms; then 8 images of 16x16 pixels."""


def reach_of_rounding(state: dict[str, np.ndarray], optimizer: str, rate: float, steps: int) -> dict[str, np.ndarray]:
    """By how much rounding may move each weight within `steps` steps of Adam, by the weight's name in its network.

    Adam divides a gradient by its size. An error that is small beside the largest gradient is a whole step of a weight
    whose own gradient is no larger than that error, such as those that a softmax or a normalisation cancels.
    """
    own = f"{optimizer}/0/nu/"
    size = {name.removeprefix(own): np.sqrt(value) for name, value in state.items() if name.startswith(own)}
    error = rounding(TERMS, max(value.max() for value in size.values()))
    return {name: steps * 2 * rate * np.minimum(1, error / np.maximum(value, 1e-30)) for name, value in size.items()}


@pytest.mark.parametrize("model", [ToyConfig(), rqvae_config()], ids=["toy", "rqvae"])
def test_eight_devices_equal_one(model):
    c = config(model=model, ema_decay=0.9)
    (one, metrics), (eight, others) = (on_mesh(c, devices) for devices in (1, 8))
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    moved = reach_of_rounding(one, "optimizer", 2e-3, 3)
    reach = {f"{kind}/network/{name}": value for kind in ("model", "ema") for name, value in moved.items()}
    reach |= {f"discriminator/{n}": value for n, value in reach_of_rounding(one, "disc_optimizer", 2e-3, 3).items()}
    assert np.median(np.concatenate([value.ravel() for value in reach.values()])) < 0.1 * 3 * 2e-3
    assert set(reach) <= set(one)
    reach |= {name: rounding(TERMS, np.abs(value).max()) for name, value in one.items() if "/codebooks" in name}
    for name, value in one.items():
        bound = np.maximum(reach.get(name, 0.0), 1e-5 * (1 + np.abs(value)))
        assert np.all(np.abs(eight[name] - value) <= bound), name


@pytest.mark.parametrize("model", [ToyConfig(), rqvae_config()], ids=["toy", "rqvae"])
def test_reconstruction_falls(model):
    _, state, history = run(config(model=model), 30)
    errors = [float(metrics["reconstruction"]) for metrics in history]
    assert errors[-1] < 0.5 * errors[0]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_previews_are_rows_of_bytes_and_depths_stand_below_each_other():
    stage = config(model=rqvae_config(), ema_decay=0.9).build(10)
    pictures = stage.preview(jax.jit(stage.init)(jax.random.key(0)), None, batch(9), jax.random.key(0))
    assert list(pictures) == ["reconstructions", "errors"]
    for picture in pictures.values():
        assert (picture.shape, picture.dtype) == ((8, 3 * 16, 16, 3), jnp.uint8)
        np.testing.assert_array_equal(picture[:, :16], batch(9)["image"][:8])


def test_error_maps_are_black_where_an_image_is_right_and_brighter_where_it_is_more_wrong():
    image = np.full((1, 1, 4, 3), 100, np.uint8)
    row = image + np.array([0, 16, 32, 64], np.uint8)[:, None]
    row[0, 0, 1] = (100 - 48, 100, 100)  # a third of the channels, three times as wrong: the mean counts
    found = error_maps(image, {"grains": row, "depth 1": row})
    assert list(found) == ["depth 1"]
    heat = np.asarray(found["depth 1"])[0, 0]
    np.testing.assert_array_equal(heat, [[0, 0, 0], [191, 0, 0], [255, 128, 0], [255, 255, 255]])


# --- the boundary


def test_lpips_is_frozen_and_not_part_of_the_state():
    stage = config(perceptual_weight=1.0, vgg16_path="nowhere/vgg16.pth").build(10)
    assert len(jax.tree.leaves(stage.frozen_shapes())) == 31
    assert "lins/0" not in to_arrays(jax.eval_shape(stage.init, jax.random.key(0)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reconstruction": "huber"}, "reconstruction is 'huber': expected one of mse, l1"),
        ({"gan": "wgan"}, "gan is 'wgan': expected one of hinge, vanilla"),
        ({"lpips_dtype": "int8"}, "lpips_dtype is 'int8'"),
        ({"codebook_updates_per_step": 3}, "codebook_updates_per_step is 3: expected one of 1, 2"),
        ({"disc_weight": -1.0}, "disc_weight is -1.0"),
        ({"disc_groups": 0}, "disc_groups is 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"perceptual_weight": 1.0}, "vgg16_path is empty but perceptual_weight is 1.0: download"),
    ],
)
def test_bad_values_are_named(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        config(**changes).build(10)
    assert "\n" not in str(caught.value)
