"""Optimizers, learning-rate schedules and the moving average of weights, as the two papers' releases define them."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Shaped

from rqjax.checks import at_least, one_of, rates
from rqjax.errors import InputError
from rqjax.mesh import name_of

T = TypeVar("T")
Flag = Bool[Array, ""] | bool
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "clipped_cosine")


@dataclasses.dataclass(kw_only=True)
class OptimizerConfig:
    """One optimizer and its learning rate over the run. The defaults are those of RQ-VAE.

    The rate rises linearly from exactly zero at the first update over `warmup_steps` updates, then follows `schedule`
    to the end of the run: `cosine` ends at `min_learning_rate` (RQ), `clipped_cosine` goes towards zero and is cut off
    there (DQ); the two agree when that is zero.
    """

    name: str = "adam"  # adam or adamw
    learning_rate: float = 4e-5  # after the warm-up
    b1: float = 0.5  # decay of the mean of gradients
    b2: float = 0.9  # decay of the mean of their squares
    weight_decay: float = 0.0  # adamw: times the rate
    clip_norm: float = 0.0  # of the whole gradient; 0 turns clipping off
    warmup_steps: int = 0  # from rate 0
    schedule: str = "constant"  # constant, cosine or clipped_cosine
    min_learning_rate: float = 0.0  # at the end of a cosine

    def check(self) -> None:
        """Raises InputError if no optimizer can be made of these values."""
        one_of(OPTIMIZERS, **{"optimizer.name": self.name})
        one_of(SCHEDULES, **{"optimizer.schedule": self.schedule})
        if self.name == "adam" and self.weight_decay:
            raise InputError(f"optimizer adam with weight_decay={self.weight_decay}: use adamw, or weight_decay 0")
        rates(**{f"optimizer.{name}": getattr(self, name) for name in ("b1", "b2")})
        names = ("learning_rate", "weight_decay", "clip_norm", "warmup_steps", "min_learning_rate")
        at_least(0, **{f"optimizer.{name}": getattr(self, name) for name in names})
        if self.min_learning_rate > self.learning_rate:
            raise InputError(
                f"optimizer min_learning_rate={self.min_learning_rate} exceeds "
                f"learning_rate={self.learning_rate}: lower it"
            )


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates already made, for a run of `steps` updates.

    A run no longer than its warm-up does not come to the rest. Raises InputError as OptimizerConfig.check does.
    """
    config.check()
    return warmup_then(config.schedule, config.learning_rate, config.min_learning_rate, config.warmup_steps, steps)


def warmup_then(decay: str, peak: float, minimum: float, warmup: int | float, steps: int) -> optax.Schedule:
    """A linear warm-up from zero over `warmup` updates (a fraction of one counts too), then one of SCHEDULES."""

    def rate(count: Shaped[ArrayLike, ""]) -> Float[Array, ""]:
        t = jnp.asarray(count, jnp.float32)
        part = jnp.clip((t - warmup) / max(steps - warmup, 1), 0, 1)
        fall = (1 + jnp.cos(jnp.pi * part)) / 2
        if decay == "cosine":
            after = minimum + (peak - minimum) * fall
        elif decay == "clipped_cosine":
            after = jnp.maximum(peak * fall, minimum)
        else:
            after = jnp.full_like(t, peak)
        return jnp.where(t < warmup, peak * t / max(warmup, 1), after)

    return rate


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax optimizer of any pytree, modules among them."""

    transformation: optax.GradientTransformationExtraArgs

    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The state before the first update."""
        return self.transformation.init(params)  # pyrefly: ignore[bad-argument-type]  (optax's type knows no modules)

    def update(self, grads: T, state: PyTree[Array], params: T, good: Flag = True) -> tuple[T, PyTree[Array]]:
        """The parameters and the state after one update; those given, bit for bit, where it is not `good`."""
        change, new = self.transformation.update(grads, state, params, good=good)  # pyrefly: ignore
        # the moments have seen to it themselves: each array is written once, in the place of the old one
        state = jax.tree.map(lambda new, old: new if new.ndim else jnp.where(good, new, old), new, state)
        return kept(good, optax.apply_updates(params, change), params), state  # pyrefly: ignore


def kept(good: Flag, new: T, old: T) -> T:
    """`new` where it is good, else `old`."""
    return jax.tree.map(lambda new, old: old if new is old else jnp.where(good, new, old), new, old)


def make(config: OptimizerConfig, steps: int, decay_mask: Callable[[str], bool] | None = None) -> Optimizer:
    """The optimizer of a run of `steps` updates: clip, Adam, decoupled weight decay (as AdamW), learning rate.

    `decay_mask` says by a parameter's name (`network/blocks/mlp/up/kernel`) whether it decays; None decays all.
    """
    rate = schedule(config, steps)
    parts = [_clip(config.clip_norm)] if config.clip_norm else []
    parts += [_scale_by_adam(config.b1, config.b2, eps=1e-8)]
    if config.weight_decay:
        parts += [_decay_weights(config.weight_decay, decay_mask or (lambda name: True))]
    return Optimizer(optax.with_extra_args_support(optax.chain(*parts, optax.scale_by_learning_rate(rate))))


def _clip(most: float) -> optax.GradientTransformation:
    """optax.clip_by_global_norm by one factor for all gradients, as PyTorch has it, and not a quotient of each.

    It differs by a rounding of the factor, where the norm is large. A product is computed again where it is read; a
    quotient, which takes longer, a compiler keeps for each gradient, and two passes over memory are made for it.
    """

    def clip(updates: PyTree[Array], params: PyTree[Array] | None = None) -> PyTree[Array]:
        norm = optax.global_norm(updates)
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)

    return optax.stateless(clip)


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_adam to the bit, whose new moments are the old ones where an update is not good.

    If they were chosen later, a compiler would work out the new ones twice, for the state and for the weights, and copy
    the old ones to have them still: two copies of all parameters in memory, and the time to make them.
    """
    plain = optax.scale_by_adam(b1, b2, eps)

    def update(
        updates: PyTree[Array],
        state: optax.ScaleByAdamState,
        params: PyTree[Array] | None = None,
        *,
        good: Flag = True,
        **rest: object,
    ) -> tuple[PyTree[Array], optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = kept(good, optax.tree.update_moment(updates, state.mu, b1, 1), state.mu)
        nu = kept(good, optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2), state.nu)
        means, squares = optax.tree.bias_correction(mu, b1, count), optax.tree.bias_correction(nu, b2, count)
        change = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), means, squares)
        return change, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(plain.init, update)  # pyrefly: ignore[bad-argument-type]


def _decay_weights(weight_decay: float, mask: Callable[[str], bool]) -> optax.GradientTransformation:
    """Adds weight_decay x weight where the name says so; optax.masked would put placeholders inside the modules."""

    def decay(path: KeyPath, u: jax.Array, p: jax.Array) -> jax.Array:
        return u + weight_decay * p if mask(name_of(path)) else u

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(decay, updates, params))


def ema_update(ema: T, model: T, step: Shaped[ArrayLike, ""], decay: float) -> T:
    """The moving average of `model` after one more update, `step` of which came before it (0 at the first).

    The decay is min(decay, (1 + step) / (10 + step)), so the first weights fade fast. Floating-point leaves are
    averaged, codebooks too; the others are the model's.
    """
    t = jnp.asarray(step, jnp.float32)
    mu = jnp.minimum(decay, (1 + t) / (10 + t))

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        return (mu * old + (1 - mu) * new).astype(old.dtype) if jnp.issubdtype(old.dtype, jnp.floating) else new

    return jax.tree.map(average, ema, model)
