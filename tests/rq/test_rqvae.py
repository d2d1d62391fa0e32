import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rqjax.errors import InputError
from rqjax.mesh import make_mesh
from rqjax.official.convert import import_model, keys, to_torch
from rqjax.official.rqvae import rqvae_config
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.vae import RQVAE
from tests.conftest import Golden, assert_digests, assert_near, digest, nhwc, noise_keys
from tests.small_rq import tokenizer_config

CASES = ("rqvae_shared", "rqvae_separate_codebooks_folded")
KEYS = pathlib.Path(__file__).parents[1] / "keys" / "rq"


def arch(golden: Golden, **hparams) -> dict:
    return {"type": "rq-vae", "hparams": golden.meta["hparams"] | hparams, "ddconfig": golden.meta["ddconfig"]}


@functools.cache
def load(case: str) -> tuple[Golden, RQVAE]:
    """A case, and its model without restarts, as the case was run."""
    golden = Golden(f"rq/{case}")
    model = import_model(golden.state_dict(), rqvae_config(arch(golden, restart_unused_codes=False)))
    return golden, jax.tree.map(jnp.asarray, model)


@pytest.fixture(params=CASES)
def case(request):
    return load(request.param)


def test_evaluation_equals_the_official_one(case):
    golden, model = case
    data, image = golden.data, nhwc(golden.data["x"])
    encoded = jax.jit(lambda model: model.network.encoder(image))(model)
    assert_near(encoded, nhwc(data["encoder_out"]))
    z = jax.jit(lambda model: model.latent(image))(model)
    assert_near(z, data["z_e"])
    quantized = jax.jit(lambda model: model.quantize(image))(model)
    np.testing.assert_array_equal(quantized.codes, data["codes"])
    assert_near(quantized.partial[-1], data["quant_last_depth"])
    assert_near(quantized.partial[0], data["quant_depth0"])
    assert_near(jax.jit(RQVAE._unfold)(model, quantized.quantized), data["z_q"])
    assert_near(quantized.metrics["commitment"], data["commitment_loss"])
    reconstruction = jax.jit(RQVAE.reconstruct)(model, image)
    assert_near(reconstruction, nhwc(data["recon"]))
    error = reconstruction_loss(golden, reconstruction, image)
    assert_near(error, data["loss_recon"])
    assert_near(error + quantized.loss, data["loss_total"])


def test_decoding_of_codes_equals_the_official_one(case):
    golden, model = case
    data, codes = golden.data, jnp.asarray(golden.data["codes"], jnp.int32)
    assert_near(jax.jit(RQVAE.decode_codes)(model, codes), nhwc(data["decode_code"]))
    depth = codes.shape[-1]
    assert_near(jax.jit(RQVAE.decode_codes)(model, codes[..., : depth - 1]), nhwc(data["partial_add"]))
    vectors = model.quantizer.vectors(codes.reshape(len(codes), -1, depth))
    assert_near(vectors, data["code_emb_with_depth"])
    last = vectors[..., -1, :].reshape(*codes.shape[:3], -1)
    assert_near(jax.jit(lambda model: model.network.image(model._unfold(last)))(model), nhwc(data["partial_select"]))


def test_the_last_progressive_step_is_the_whole(case):
    golden, model = case
    steps = jax.jit(RQVAE.progressive)(model, nhwc(golden.data["x"]))
    assert len(steps) == model.config.quantizer.depth
    assert_near(steps[-1], nhwc(golden.data["decode_code"]))
    assert_near(steps[-2], nhwc(golden.data["partial_add"]))


def test_soft_codes_equal_the_official_ones():
    golden, model = load("rqvae_shared")
    image, key, temperature = nhwc(golden.data["x"]), jax.random.key(0), golden.meta["soft_temp"]
    codes, residuals = jax.jit(RQVAE.sample_codes, static_argnums=(4, 5))(model, image, key, temperature, False, 8)
    np.testing.assert_array_equal(codes, golden.data["soft_codes_hard"])
    ours = model.quantizer.distribution(residuals[:, 0, 0], temperature)
    assert_near(ours, golden.data["soft_codes_first_site"])


def reconstruction_loss(golden, reconstruction, image):
    error = reconstruction - image
    return jnp.mean(error**2) if golden.meta["hparams"]["loss_type"] == "mse" else jnp.mean(jnp.abs(error))


@functools.cache
def train_step(case: str):
    golden, _ = load(case)
    adam = golden.meta["adam"]
    optimizer = optax.adam(adam["lr"], *adam["betas"], eps=adam["eps"])

    def loss(network, model, image):
        forward = model.with_trained(network).train_forward(image, jax.random.key(0))
        error = reconstruction_loss(golden, forward.reconstruction, image)
        return error + forward.loss, (error, forward)

    def step(model, state, image):
        (total, (error, forward)), grads = jax.value_and_grad(loss, has_aux=True)(model.network, model, image)
        updates, state = optimizer.update(grads, state, model.network)
        after = model.with_trained(optax.apply_updates(model.network, updates)).with_quantizer(forward.quantizer)
        losses = jnp.stack([total, error, forward.metrics["commitment"]])
        return after, state, grads, losses, forward.metrics

    return optimizer, jax.jit(step)


def test_train_step_equals_the_official_one(case):
    golden, model = case
    optimizer, step = train_step(golden.meta["image_names"]["x"].split(":")[0])
    image = nhwc(golden.data["x"])
    after, _, grads, losses, metrics = step(model, optimizer.init(model.network), image)
    assert_near(losses[0], golden.data["train_loss_total"])
    assert_near(losses[2], golden.data["train_commitment_loss"])
    assert metrics["restart_warning"] == 0
    tensors = to_torch(dataclasses.replace(model, network=grads))
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("quantizer.")}
    expected = {key: value for key, value in golden.meta["grad_digest"].items() if value is not None}
    assert set(expected) == set(tensors)
    assert_digests(tensors, expected, noise_keys(expected))
    official = to_torch(after)
    for name, expected in golden.meta["ema_after_one_step"].items():
        index = int(name.split("_")[1])
        count = official[f"quantizer.codebooks.{index}.cluster_size_ema"]
        assert_near(count, golden.data[f"ema1_cluster_size_{index}"])
        for leaf, value in expected.items():
            ours = digest(leaf, official[f"quantizer.codebooks.{index}.{leaf}"])
            assert np.abs(ours - value).max() <= 1e-3 * value[0]


def test_three_adam_steps_equal_the_official_ones(case):
    golden, model = case
    optimizer, step = train_step(golden.meta["image_names"]["x"].split(":")[0])
    state, shape = optimizer.init(model.network), golden.data["x"].shape
    for name, expected in zip(
        golden.meta["image_names"]["steps"], golden.meta["adam"]["losses_total_recon_latent"], strict=True
    ):
        model, state, _, losses, _ = step(model, state, jnp.asarray(golden.image(name, shape)))
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
    gradients = {key: value for key, value in golden.meta["grad_digest"].items() if value is not None}
    assert_digests(to_torch(model), golden.meta["adam"]["params_after"], noise_keys(gradients))


def test_official_tensors_come_back_bit_for_bit(case):
    golden, _ = case
    tensors = golden.state_dict()
    back = to_torch(import_model(tensors, rqvae_config(arch(golden))))
    assert set(back) == set(tensors)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


def published(name: str) -> dict:
    ffhq = name.startswith("ffhq")
    hparams = {
        "bottleneck_type": "rq",
        "embed_dim": 256,
        "n_embed": 2048 if ffhq else 16384,
        "latent_shape": [8, 8, 256],
        "code_shape": [8, 8, 4],
        "shared_codebook": True,
        "decay": 0.99,
        "restart_unused_codes": True,
        "loss_type": "mse",
        "latent_loss_weight": 0.25,
    }
    ddconfig = {
        "double_z": False,
        "z_channels": 256,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16 if ffhq else 8],
        "dropout": 0.0,
    }
    return {"type": "rq-vae", "hparams": hparams, "ddconfig": ddconfig, "checkpointing": True}


@pytest.mark.parametrize(
    ("name", "elements"), [("ffhq256-rqvae-8x8x4", 104_411_011), ("in256-rqvae-8x8x4", 133_828_483)]
)
def test_published_models_have_exactly_the_official_tensors(name, elements):
    """The three LSUN models have the keys and shapes of the ImageNet one."""
    model = jax.eval_shape(rqvae_config(published(name)).init, jax.random.key(0))
    official = {key: tuple(shape) for key, shape in json.loads((KEYS / f"{name}.json").read_text()).items()}
    ours = keys(rqvae_config(published(name)))
    assert list(ours.items()) == list(official.items())
    assert sum(int(np.prod(shape)) for shape in ours.values()) == elements
    assert sum(leaf.size for leaf in jax.tree.leaves(model.network)) == 100_207_491


def tiny(**changes) -> RQVAEConfig:
    sizes = {"z_channels": 16, "codebook_size": (32,), "code_shape": (2, 2), "decay": (0.9,)}
    return tokenizer_config(**sizes | changes)


def new(config: RQVAEConfig) -> RQVAE:
    """A new model, by a program that is compiled as fast as can be."""
    return jax.jit(config.init, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(0))


def loss_and_forward(model, image, network=None):
    forward = model.with_trained(network or model.network).train_forward(image, jax.random.key(3))
    return jnp.mean((forward.reconstruction - image) ** 2) + forward.loss, forward


@pytest.fixture
def image():
    return jax.random.uniform(jax.random.key(2), (8, 8, 8, 3), minval=-1.0)


def test_rematerialisation_is_passed_on(image):
    """That it changes no gradient is test_autoencoder's to show."""
    for remat in (False, True):
        model = jax.eval_shape(tiny(remat=remat).init, jax.random.key(0))
        program = str(jax.make_jaxpr(lambda model: loss_and_forward(model, image)[0])(model))
        assert ("checkpoint" in program or "remat" in program) == remat


def test_bfloat16_computes_near_float32_with_float32_results(image):
    forwards = {}
    for dtype in ("float32", "bfloat16"):
        model = new(tiny(dtype=dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}
        forwards[dtype] = jax.jit(lambda model: model.train_forward(image, jax.random.key(3)))(model)
    exact, half = forwards["float32"], forwards["bfloat16"]
    assert half.features.dtype == jnp.bfloat16
    assert half.reconstruction.dtype == half.loss.dtype == half.quantizer.codebooks[0].embed.dtype == jnp.float32
    assert np.isfinite(half.reconstruction).all()
    np.testing.assert_allclose(half.loss, exact.loss, rtol=0.05)


def test_eight_devices_give_the_step_of_one(image):
    model = new(tiny())
    run = jax.jit(
        lambda model, image: jax.value_and_grad(lambda network: loss_and_forward(model, image, network), has_aux=True)(
            model.network
        )
    )
    (loss, forward), grads = run(model, image)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        split = jax.device_put(image, jax.NamedSharding(mesh, jax.P("data")))
        whole = jax.device_put(model, jax.NamedSharding(mesh, jax.P()))
        (loss8, forward8), grads8 = run(whole, split)
    np.testing.assert_allclose(loss8, loss, rtol=1e-5)
    for name, value in forward.metrics.items():
        np.testing.assert_allclose(forward8.metrics[name], value, rtol=1e-5, err_msg=name)
    for one, eight in zip(jax.tree.leaves(forward.quantizer), jax.tree.leaves(forward8.quantizer), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5)
    for one, eight in zip(jax.tree.leaves(grads), jax.tree.leaves(grads8), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-3, atol=1e-5)


def test_training_lowers_the_error(image):
    model = new(tiny())
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(model, state):
        def loss(network):
            return loss_and_forward(model, image, network)

        (_, forward), grads = jax.value_and_grad(loss, has_aux=True)(model.network)
        updates, state = optimizer.update(grads, state)
        error = jnp.mean((forward.reconstruction - image) ** 2)
        after = model.with_trained(optax.apply_updates(model.network, updates)).with_quantizer(forward.quantizer)
        return after, state, error

    state, errors = optimizer.init(model.network), []
    for _ in range(25):
        model, state, error = step(model, state)
        errors.append(float(error))
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_shape": (3, 4)}, r"code grid of \(3, 4\) does not divide the latent grid \(4, 4\)"),
        ({"codebook_size": (32, 16)}, "codebook_size has 2 sizes for depth 3"),
        ({"decay": (0.9, 0.8)}, "2 decays for 1 codebooks"),
        ({"decay": (1.0,)}, "decay"),
        ({"resolution": 15}, "15 cannot be halved 1 times"),
        ({"attn_resolutions": (7,)}, "attn_resolutions"),
        ({"dtype": "float16"}, "float16"),
        ({"codebook_size": (0,)}, "codebook_size"),
        ({"ch_mult": ()}, "ch_mult is .."),
        ({"depth": 0, "codebook_size": (8,)}, "depth is 0"),
        ({"restart_threshold": -1.0}, "restart_threshold"),
    ],
)
def test_a_bad_config_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as error:
        tiny(**changes).check()
    assert "\n" not in str(error.value)


def test_images_that_the_grid_does_not_divide_are_refused():
    model = jax.eval_shape(tiny().init, jax.random.key(0))
    with pytest.raises(InputError, match="multiples of 4x4"):
        jax.eval_shape(RQVAE.encode, model, jnp.zeros((1, 9, 8, 3)))


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (None, {"colour": 1}, "arch.colour"),
        ("hparams", {"n_embeds": 1}, "arch.hparams.n_embeds"),
        ("ddconfig", {"chmult": 1}, "arch.ddconfig.chmult"),
        ("ddconfig", {"dropout": 0.1}, "arch.ddconfig.dropout is 0.1"),
        ("ddconfig", {"double_z": True}, "double_z"),
        ("hparams", {"bottleneck_type": "vq"}, "bottleneck_type"),
        ("hparams", {"n_embed": [1, 2]}, "a list of 1 values"),
        ("hparams", {"latent_shape": [16, 16, 256]}, "latent_shape"),
        ("hparams", {"code_shape": 8}, "a list of 3 values"),
    ],
)
def test_official_configs_with_other_options_are_refused_by_name(section, changes, message):
    config = published("ffhq")
    (config if section is None else config[section]).update(changes)
    with pytest.raises(InputError, match=message):
        rqvae_config(config)


def test_options_that_the_reference_ignores_are_accepted():
    config = published("ffhq")
    config["hparams"] |= {"commitment_loss": "cumsum", "use_padding_idx": False, "masked_dropout": 0.0}
    assert rqvae_config(config | {"code_hier": 1, "ema": None}) == rqvae_config(published("ffhq"))


def test_copies_that_differ_are_refused():
    golden, _ = load("rqvae_shared")
    tensors = golden.state_dict()
    tensors["quantizer.codebooks.2.weight"] = tensors["quantizer.codebooks.2.weight"] + 1
    with pytest.raises(InputError, match=r"codebooks\.2\.weight differs"):
        import_model(tensors, rqvae_config(arch(golden)))
