"""Stage one: any tokenizer learns to reconstruct, by pixels, by features of VGG16, and against a discriminator."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from rqjax import optim
from rqjax.checks import at_least, one_of, rates
from rqjax.data.images import to_float
from rqjax.errors import InputError
from rqjax.interface import Batch, Forward, Metrics, Proposal, Sums, Tokenizer, TokenizerConfig
from rqjax.nets.discriminator import GANS, Discriminator, adaptive_weight, discriminator_loss, generator_loss
from rqjax.nets.init import DTYPES, Rngs
from rqjax.nets.lpips import LPIPS, REMEDY, shapes
from rqjax.quantize.pytree import pytree
from rqjax.stages.measure import error_maps, stacked, terms_of_images, tokenizer_rows, tokenizer_sums, total

T = TypeVar("T")
PREVIEWS = 8
"""Images in a preview."""


@dataclasses.dataclass(kw_only=True)
class AutoencodeConfig:
    """A tokenizer and how it is trained. The defaults are RQ-VAE's (Lee et al. 2022, on ImageNet).

    It minimises reconstruction + perceptual_weight LPIPS + the model's own loss + w adversarial, where
    w = min(lambda disc_weight, disc_weight_max).
    """

    model: TokenizerConfig  # the tokenizer
    reconstruction: str = "mse"  # or "l1"
    perceptual_weight: float = 1.0  # 0: no LPIPS, and no file is read
    vgg16_path: str = ""  # torchvision's vgg16-397923af.pth
    vgg16_verify: bool = True  # compare its SHA-256
    lpips_dtype: str = "float32"  # of the computation of LPIPS: float32 or bfloat16
    gan: str = "hinge"  # the discriminator's loss: hinge or vanilla
    disc_weight: float = 0.75  # of the adversarial loss; 0: no discriminator at all
    disc_weight_max: float = 0.0  # cap of lambda x disc_weight (DQ 0.75); 0: none (RQ)
    disc_loss_weight: float = 0.75  # of the discriminator's own loss: RQ's is its disc_weight, DQ's 1
    disc_start: int = 0  # finished steps before the discriminator begins
    adaptive: bool = True  # lambda balances the gradients at the last layer; else it is 1
    disc_ndf: int = 64  # channels of the discriminator's first layer
    disc_num_layers: int = 2  # strided convolutions of the discriminator
    disc_groups: int = 4  # parts of the batch with statistics of their own, as GPUs had; 1: the global batch
    optimizer: optim.OptimizerConfig = dataclasses.field(default_factory=optim.OptimizerConfig)  # of the tokenizer
    # of the discriminator
    discriminator_optimizer: optim.OptimizerConfig = dataclasses.field(default_factory=optim.OptimizerConfig)
    ema_decay: float = 0.0  # of the weights; 0: off
    # 1, or 2 to reproduce DQ's release: a second forward pass and codebook update, whose images the discriminator sees
    codebook_updates_per_step: int = 1

    microbatches = 1
    fields = frozenset({"image"})

    def check(self) -> None:
        """Raises InputError for values that make no training."""
        one_of(("mse", "l1"), reconstruction=self.reconstruction)
        one_of(DTYPES, lpips_dtype=self.lpips_dtype)
        one_of(GANS, gan=self.gan)
        one_of((1, 2), codebook_updates_per_step=self.codebook_updates_per_step)
        names = ("perceptual_weight", "disc_weight", "disc_weight_max", "disc_loss_weight", "disc_start")
        at_least(0, **{name: getattr(self, name) for name in names})
        at_least(1, **{name: getattr(self, name) for name in ("disc_ndf", "disc_num_layers", "disc_groups")})
        rates(ema_decay=self.ema_decay)
        if self.perceptual_weight and not self.vgg16_path:
            raise InputError(f"vgg16_path is empty but perceptual_weight is {self.perceptual_weight}: {REMEDY}")
        self.model.check()
        self.optimizer.check()
        self.discriminator_optimizer.check()

    def weighted(self, terms: dict[str, Array]) -> Array:
        """The loss that terms of the comparison of images make."""
        pixels = terms["reconstruction"]
        return pixels + self.perceptual_weight * terms["lpips"] if "lpips" in terms else pixels

    def build(self, steps: int) -> "Autoencode":
        """The stage for a run of `steps` steps; the discriminator's schedule spans those that it takes part in."""
        self.check()
        return Autoencode(
            config=self,
            rate=optim.schedule(self.optimizer, steps),
            optimizer=optim.make(self.optimizer, steps),
            disc_optimizer=optim.make(self.discriminator_optimizer, max(steps - self.disc_start, 1)),
        )


@pytree
@dataclasses.dataclass(frozen=True)
class AutoencodeState:
    """Everything that changes while a tokenizer trains."""

    step: Int[Array, ""]  # finished steps
    model: Tokenizer
    ema: Tokenizer | None  # with averaged weights
    discriminator: Discriminator | None  # None with disc_weight 0
    optimizer: PyTree[Array]
    disc_optimizer: PyTree[Array]


@dataclasses.dataclass(frozen=True)
class Autoencode:
    """The training of a tokenizer, as functions; see interface.Stage."""

    config: AutoencodeConfig
    rate: optax.Schedule
    optimizer: optim.Optimizer
    disc_optimizer: optim.Optimizer

    def init(self, key: Key[Array, ""]) -> AutoencodeState:
        c = self.config
        model_key, disc_key = jax.random.split(key)
        model = c.model.init(model_key)
        disc = Discriminator(c.disc_ndf, c.disc_num_layers, rngs=Rngs(disc_key)) if c.disc_weight else None
        return AutoencodeState(
            step=jnp.zeros((), jnp.int32),
            model=model,
            ema=jax.tree.map(jnp.copy, model) if c.ema_decay else None,  # copies: the state is donated
            discriminator=disc,
            optimizer=self.optimizer.init(model.trained),
            disc_optimizer=None if disc is None else self.disc_optimizer.init(disc),
        )

    def frozen_shapes(self) -> LPIPS | None:
        return shapes(DTYPES[self.config.lpips_dtype]) if self.config.perceptual_weight else None

    def propose(
        self, state: AutoencodeState, frozen: LPIPS | None, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Proposal, Metrics]:
        c, image = self.config, to_float(batch["image"])
        keys = jax.random.split(key)

        def forward(trained: PyTree[Array]) -> tuple[tuple[Array, Array], Forward]:
            out = state.model.with_trained(trained).train_forward(image, keys[0])
            return (out.reconstruction, out.loss), out

        (recon, auxiliary), pullback, out = jax.vjp(forward, state.model.trained, has_aux=True)
        d_recon, terms = self.objective(state, frozen, image, recon, out.features)
        (grads,) = pullback((d_recon, jnp.ones_like(auxiliary)))
        total = {"loss_total": terms["loss_total"] + auxiliary, "gradient_norm": optax.global_norm(grads)}
        quantizer = out.quantizer

        def updated(good: optim.Flag) -> tuple[Tokenizer, PyTree[Array]]:
            trained, optimizer = self.optimizer.update(grads, state.optimizer, state.model.trained, good)
            model = state.model.with_trained(trained)
            return optim.kept(good, model.with_quantizer(quantizer), model), optimizer

        if c.codebook_updates_per_step == 2:
            again = updated(True)[0].train_forward(image, keys[1])
            recon, quantizer = again.reconstruction, again.quantizer
        critic, disc_metrics = self.update_discriminator(state, image, recon)

        def take(good: optim.Flag) -> AutoencodeState:
            model, optimizer = updated(good)
            ema = optim.ema_update(state.ema, model, state.step, c.ema_decay) if c.ema_decay else None
            ema, *disc = optim.kept(good, (ema, *critic), (state.ema, state.discriminator, state.disc_optimizer))
            return AutoencodeState(state.step + 1, model, ema, disc[0], optimizer, disc[1])

        return take, out.metrics | terms | total | disc_metrics | {"learning_rate": jnp.asarray(self.rate(state.step))}

    def objective(
        self, state: AutoencodeState, frozen: LPIPS | None, image: Array, recon: Array, features: Array
    ) -> tuple[Array, Metrics]:
        """The gradient of all losses by the reconstruction, so that the network needs a single backward pass."""
        c = self.config
        nll = jax.value_and_grad(lambda x: reconstruction_loss(c, frozen, image, x), has_aux=True)
        (total, terms), d_nll = nll(recon)
        terms = terms | {"loss_total": total}
        if state.discriminator is None:
            return d_nll, terms
        critic: Discriminator = state.discriminator

        def adversarial() -> tuple[Array, Array, Array]:
            loss, d_adv = jax.value_and_grad(lambda x: generator_loss(critic(x, c.disc_groups)))(recon)
            layer = state.model.last_layer
            weight = adaptive_weight(layer, features, d_nll, d_adv) if c.adaptive else jnp.ones(())
            return loss, weight, d_adv

        def absent() -> tuple[Array, Array, Array]:
            return jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(recon)

        loss, weight, d_adv = self.when_begun(state, adversarial, absent)
        factor = weight * c.disc_weight
        factor = jnp.minimum(factor, c.disc_weight_max) if c.disc_weight_max else factor
        return d_nll + factor * d_adv, terms | {"adversarial": loss, "lambda": weight}

    def when_begun(self, state: AutoencodeState, then: Callable[[], T], before: Callable[[], T]) -> T:
        """`then()`, or `before()` in steps up to disc_start."""
        start = self.config.disc_start
        return jax.lax.cond(state.step >= start, then, before) if start else then()

    def update_discriminator(
        self, state: AutoencodeState, image: Array, fake: Array
    ) -> tuple[tuple[Discriminator | None, PyTree[Array]], Metrics]:
        """The discriminator and its optimizer's state after a step on real and on reconstructed images, each a batch of
        its own.
        """
        c, critic = self.config, state.discriminator
        if critic is None:
            return (None, None), {}

        def loss(disc: Discriminator) -> tuple[Array, Metrics]:
            on_real, on_fake = disc(image, c.disc_groups), disc(fake, c.disc_groups)
            value = c.disc_loss_weight * discriminator_loss(c.gan, on_real, on_fake)
            return value, {"logits_real": jnp.mean(on_real), "logits_fake": jnp.mean(on_fake)}

        def update() -> tuple[tuple[Discriminator, PyTree[Array]], Metrics]:
            (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(critic)
            after = self.disc_optimizer.update(grads, state.disc_optimizer, critic)
            found = {"discriminator": value, "disc_gradient_norm": optax.global_norm(grads), **logits}
            return after, found

        def wait() -> tuple[tuple[Discriminator, PyTree[Array]], Metrics]:
            names = ("discriminator", "disc_gradient_norm", "logits_real", "logits_fake")
            return (critic, state.disc_optimizer), {name: jnp.zeros(()) for name in names}

        return self.when_begun(state, update, wait)

    def preview(
        self, state: AutoencodeState, frozen: LPIPS | None, batch: Batch, key: Key[Array, ""]
    ) -> dict[str, UInt8[Array, "n h2 w 3"]]:
        """The first images, and below them what tokenizer_rows makes of them; and where each of these is wrong."""
        image, model = batch["image"][:PREVIEWS], state.model if state.ema is None else state.ema
        rows = tokenizer_rows(model, image)
        return {"reconstructions": stacked(image, rows), "errors": stacked(image, error_maps(image, rows))}

    def evaluate(self, state: AutoencodeState, frozen: LPIPS | None, batch: Batch, key: Key[Array, ""]) -> Sums:
        """`loss` is that of the pixels and of LPIPS; the model's own and the discriminator's belong to training."""
        image, counts = to_float(batch["image"]), batch["counts"]
        model = state.model if state.ema is None else state.ema
        recon = model.progressive(image)
        terms = terms_of_images(self.config.reconstruction, frozen, image, recon[-1])
        losses = total({"loss": self.config.weighted(terms), **terms}, counts)
        return losses | tokenizer_sums(model, image, recon, counts)


def reconstruction_loss(
    config: AutoencodeConfig, lpips: LPIPS | None, image: Float[Array, "b h w 3"], recon: Float[Array, "b h w 3"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The part of the loss that compares images, and its terms; `lpips` is not read with perceptual_weight 0.

    The mean of each image comes first, which is the work of one device, so what is left to add up over a mesh is short:
    the losses of 40 steps on one and on eight devices are within 2e-7. With one sum over all pixels it was 1.8e-6.
    """
    found = terms_of_images(config.reconstruction, lpips, image, recon)
    terms = {name: jnp.mean(each) for name, each in found.items()}
    return config.weighted(terms), terms
