"""Stage one: any tokenizer learns to reconstruct, by pixels, by features of VGG16, and against a discriminator."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from rqjax import optim
from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError
from rqjax.nets.discriminator import GANS, Discriminator, discriminator_loss, generator_loss
from rqjax.stages.interface import Batch, Stage
from rqjax.torchfile import lpips

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PREVIEWS = 8


@dataclasses.dataclass(kw_only=True)
class AutoencodeConfig:
    """A tokenizer and how it is trained. The defaults are RQ-VAE's (Lee et al. 2022, on ImageNet).

    It minimises reconstruction + perceptual_weight LPIPS + the model's own loss + w adversarial, where
    w = min(lambda disc_weight, disc_weight_max).
    """

    model: Any  # a tokenizer's configuration
    reconstruction: str = "mse"  # or "l1"
    perceptual_weight: float = 1.0  # 0: no LPIPS, and no file is read
    vgg16_path: str = ""  # torchvision's vgg16-397923af.pth
    vgg16_verify: bool = True  # compare its SHA-256
    lpips_dtype: str = "float32"
    gan: str = "hinge"
    disc_weight: float = 0.75  # of the adversarial loss; 0: no discriminator at all
    disc_weight_max: float = 0.0  # cap of lambda x disc_weight (DQ 0.75); 0: none (RQ)
    disc_loss_weight: float = 0.75  # of the discriminator's own loss: RQ's is its disc_weight, DQ's 1
    disc_start: int = 0  # finished steps before the discriminator begins
    adaptive: bool = True  # lambda balances the gradients at the last layer; else it is 1
    disc_ndf: int = 64
    disc_num_layers: int = 2
    disc_groups: int = 4  # parts of the batch with statistics of their own, as GPUs had; 1: the global batch
    optimizer: optim.OptimizerConfig = dataclasses.field(default_factory=optim.OptimizerConfig)
    discriminator_optimizer: optim.OptimizerConfig = dataclasses.field(default_factory=optim.OptimizerConfig)
    ema_decay: float = 0.0  # of the weights; 0: off
    # 1, or 2 to reproduce DQ's release: a second forward pass and codebook update, whose images the discriminator sees
    codebook_updates_per_step: int = 1

    def check(self) -> None:
        """Raises InputError for values that make no training."""
        choices = {"reconstruction": ("mse", "l1"), "lpips_dtype": DTYPES, "gan": GANS}
        for name, known in (choices | {"codebook_updates_per_step": (1, 2)}).items():
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name} is {value!r}: expected one of {', '.join(map(str, known))}")
        for name in ("perceptual_weight", "disc_weight", "disc_weight_max", "disc_loss_weight", "disc_start"):
            if (value := getattr(self, name)) < 0:
                raise InputError(f"{name} is {value}: expected 0 or more")
        for name in ("disc_ndf", "disc_num_layers", "disc_groups"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} is {value}: expected at least 1")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}: expected a value in [0, 1)")
        if self.perceptual_weight and not self.vgg16_path:
            raise InputError(f"vgg16_path is empty but perceptual_weight is {self.perceptual_weight}: {lpips.REMEDY}")
        self.model.check()
        self.optimizer.check()
        self.discriminator_optimizer.check()

    def build(self, steps: int) -> Stage:
        """The stage for a run of `steps` steps; the discriminator's schedule spans those that it takes part in."""
        self.check()
        stage = _Autoencode(
            config=self,
            rate=optim.schedule(self.optimizer, steps),
            optimizer=optim.make(self.optimizer, steps),
            disc_optimizer=optim.make(self.discriminator_optimizer, max(steps - self.disc_start, 1)),
        )
        return Stage(stage.init, stage.frozen, stage.load_frozen, stage.train_step, jax.jit(stage.preview))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AutoencodeState:
    """All that changes while a tokenizer trains."""

    step: Any  # [] int32, finished steps
    model: Any
    ema: Any  # the model with averaged weights, or None
    discriminator: Any  # None with disc_weight 0
    optimizer: Any
    disc_optimizer: Any


@dataclasses.dataclass(frozen=True)
class _Autoencode:
    config: AutoencodeConfig
    rate: optax.Schedule
    optimizer: optax.GradientTransformation
    disc_optimizer: optax.GradientTransformation

    def init(self, key: Array) -> AutoencodeState:
        c = self.config
        model_key, disc_key = jax.random.split(key)
        model = c.model.init(model_key)
        disc: Any = Discriminator(c.disc_ndf, c.disc_num_layers, rngs=nnx.Rngs(disc_key)) if c.disc_weight else None
        return AutoencodeState(
            step=jnp.zeros((), jnp.int32),
            model=model,
            ema=jax.tree.map(jnp.copy, model) if c.ema_decay else None,  # copies: the state is donated
            discriminator=disc,
            optimizer=self.optimizer.init(model.network),
            disc_optimizer=None if disc is None else self.disc_optimizer.init(disc),
        )

    def frozen(self) -> Any:
        return lpips.abstract(DTYPES[self.config.lpips_dtype]) if self.config.perceptual_weight else None

    def load_frozen(self) -> Any:
        c = self.config
        if not c.perceptual_weight:
            return None
        return lpips.load_lpips(c.vgg16_path, dtype=DTYPES[c.lpips_dtype], verify=c.vgg16_verify)

    def train_step(
        self, state: AutoencodeState, frozen: Any, batch: Batch, key: Array
    ) -> tuple[AutoencodeState, dict[str, Array]]:
        c, image = self.config, to_float(batch["image"])
        keys = jax.random.split(key)

        def forward(network: Any) -> tuple[Any, Any]:
            out = state.model.train_forward(network, image, keys[0])
            return (out.reconstruction, out.loss), (out.features, out.codebooks, out.metrics)

        (recon, auxiliary), pullback, (features, codebooks, metrics) = jax.vjp(
            forward, state.model.network, has_aux=True
        )
        d_recon, terms = self.objective(state, frozen, image, recon, features)
        (grads,) = pullback((d_recon, jnp.ones_like(auxiliary)))
        metrics |= terms | {"loss_total": terms["loss_total"] + auxiliary, "gradient_norm": optax.global_norm(grads)}

        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.model.network)
        network = optax.apply_updates(state.model.network, updates)
        model = dataclasses.replace(state.model, network=network).with_codebooks(codebooks)
        if c.codebook_updates_per_step == 2:
            again = model.train_forward(network, image, keys[1])
            recon, model = again.reconstruction, model.with_codebooks(again.codebooks)
        disc, disc_optimizer, disc_metrics = self.update_discriminator(state, image, recon)
        return AutoencodeState(
            step=state.step + 1,
            model=model,
            ema=optim.ema_update(state.ema, model, state.step, c.ema_decay) if c.ema_decay else None,
            discriminator=disc,
            optimizer=optimizer,
            disc_optimizer=disc_optimizer,
        ), metrics | disc_metrics | {"learning_rate": self.rate(state.step)}

    def objective(
        self, state: AutoencodeState, frozen: Any, image: Array, recon: Array, features: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The gradient of all losses by the reconstruction, so that the network needs a single backward pass."""
        c = self.config
        nll = jax.value_and_grad(lambda x: reconstruction_loss(c, frozen, image, x), has_aux=True)
        (total, terms), d_nll = nll(recon)
        terms = terms | {"loss_total": total}
        if state.discriminator is None:
            return d_nll, terms

        def adversarial() -> tuple[Array, Array, Array]:
            loss, d_adv = jax.value_and_grad(lambda x: generator_loss(state.discriminator(x, c.disc_groups)))(recon)
            adaptive = adaptive_weight(state.model.network.decoder.conv_out, features, d_nll, d_adv)
            weight = adaptive if c.adaptive else jnp.ones_like(adaptive)
            return loss, weight, d_adv

        def absent() -> tuple[Array, Array, Array]:
            return jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(recon)

        loss, weight, d_adv = self.when_begun(state, adversarial, absent)
        factor = weight * c.disc_weight
        factor = jnp.minimum(factor, c.disc_weight_max) if c.disc_weight_max else factor
        return d_nll + factor * d_adv, terms | {"adversarial": loss, "lambda": weight}

    def when_begun(self, state: AutoencodeState, then: Callable[[], Any], before: Callable[[], Any]) -> Any:
        """`then()`, or `before()` in steps up to disc_start."""
        start = self.config.disc_start
        return jax.lax.cond(state.step >= start, then, before) if start else then()

    def update_discriminator(self, state: AutoencodeState, image: Array, fake: Array) -> tuple[Any, Any, dict]:
        """The discriminator after a step on real and on reconstructed images, each a batch of its own."""
        c = self.config
        if state.discriminator is None:
            return None, None, {}

        def loss(disc: Discriminator) -> tuple[Array, dict[str, Array]]:
            on_real, on_fake = disc(image, c.disc_groups), disc(fake, c.disc_groups)
            value = c.disc_loss_weight * discriminator_loss(c.gan, on_real, on_fake)
            return value, {"logits_real": jnp.mean(on_real), "logits_fake": jnp.mean(on_fake)}

        def update() -> tuple[Any, Any, dict[str, Array]]:
            (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(state.discriminator)
            updates, optimizer = self.disc_optimizer.update(grads, state.disc_optimizer, state.discriminator)
            found = {"discriminator": value, "disc_gradient_norm": optax.global_norm(grads), **logits}
            return optax.apply_updates(state.discriminator, updates), optimizer, found

        def wait() -> tuple[Any, Any, dict[str, Array]]:
            names = ("discriminator", "disc_gradient_norm", "logits_real", "logits_fake")
            return state.discriminator, state.disc_optimizer, {name: jnp.zeros(()) for name in names}

        return self.when_begun(state, update, wait)

    def preview(self, state: AutoencodeState, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        model = state.model if state.ema is None else state.ema
        image = to_float(batch["image"][:PREVIEWS])
        rows = {"originals": image, "reconstructions": model.reconstruct(image)}
        if hasattr(model, "decode_partial"):
            codes = model.encode(image)
            depths = [model.decode_partial(codes, depth, "add") for depth in range(codes.shape[-1])]
            rows["reconstructions_by_depth"] = jnp.concatenate(depths, axis=1)  # one below the other
        return {name: to_uint8(row) for name, row in rows.items()}


def reconstruction_loss(
    config: AutoencodeConfig, lpips: Any, image: Float[Array, "b h w 3"], recon: Float[Array, "b h w 3"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The part of the loss that compares images, and its terms; `lpips` is not read with perceptual_weight 0.

    The mean of each image comes first, which is the work of one device, so what is left to add up over a mesh is short:
    the losses of 40 steps on one and on eight devices are within 2e-7. With one sum over all pixels it was 1.8e-6.
    """
    error = image - recon
    each = jnp.square(error) if config.reconstruction == "mse" else jnp.abs(error)
    pixels = jnp.mean(jnp.mean(each, axis=(1, 2, 3)))  # of one image on one device
    if not config.perceptual_weight:
        return pixels, {"reconstruction": pixels}
    features = jnp.mean(lpips(image, recon))
    return pixels + config.perceptual_weight * features, {"reconstruction": pixels, "lpips": features}


def adaptive_weight(
    last_layer: nnx.Conv,
    features: Float[Array, "b h w c"],
    d_nll: Float[Array, "b h w 3"],
    d_adv: Float[Array, "b h w 3"],
) -> Float[Array, ""]:
    """Lambda, the norm of the reconstruction loss's gradient over that of the adversarial loss, at most 1e4.

    Both are taken by the kernel of the layer that made the reconstruction from `features`, given the losses' gradients
    by the reconstruction (VQ-GAN, Esser et al. 2021, equation 7).
    """
    _, pullback = jax.vjp(lambda layer: layer(features), last_layer)
    nll, adversarial = (jnp.linalg.norm(pullback(cotangent)[0].kernel[...]) for cotangent in (d_nll, d_adv))
    return jnp.clip(nll / (adversarial + 1e-4), 0, 1e4)
