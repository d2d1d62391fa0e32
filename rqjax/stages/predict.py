"""Stage 2: a prior over the codes of a frozen tokenizer, which runs inside the step."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from rqjax import mesh, optim
from rqjax.checks import at_least, rates
from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError
from rqjax.interface import Batch, Metrics, Prior, PriorConfig, Proposal, Sums, Tokenizer, TokenizerConfig
from rqjax.nets.condition import labels_of
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.quantize.pytree import pytree

T = TypeVar("T")
Frozen = dict[str, Tokenizer]
"""The tokenizer, under that name."""


def _adamw() -> optim.OptimizerConfig:
    """The optimizer of every published RQ-Transformer; DQ's differ in decay and clipping."""
    return optim.OptimizerConfig(
        name="adamw", learning_rate=5e-4, b1=0.9, b2=0.95, weight_decay=1e-4, clip_norm=1.0, schedule="cosine"
    )


@dataclasses.dataclass(kw_only=True)
class PredictConfig:
    """A prior and how it is trained. The defaults are those of RQ-Transformer (section 4, appendix, and the release).

    `tokenizer` is the configuration of the frozen tokenizer in the run directory `tokenizer_path`; None takes it from
    there. `temperature`, `top_k` and `top_p` (0 and 1 turn the filters off) are for the previews of training.
    """

    model: PriorConfig  # the prior
    tokenizer: TokenizerConfig | None = None  # the frozen tokenizer; None: that of `tokenizer_path`
    tokenizer_path: str = ""  # its run directory or model folder; a run keeps a copy
    optimizer: optim.OptimizerConfig = dataclasses.field(default_factory=_adamw)  # of the prior
    accumulate: int = 1  # microbatches that make one step
    ema_decay: float = 0.0  # of the weights; 0: off
    preview_count: int = 8  # images that a preview samples
    temperature: float = 1.0  # of the previews
    top_k: int = 0  # codes that a preview draws from, the likeliest; 0: all
    top_p: float = 1.0  # share of the probability that a preview draws from, the likeliest codes; 1: all
    guidance: float = 1.0  # of the previews, for a model with condition_dropout; 1: off

    @property
    def draw(self) -> Draw:
        """How previews draw every stream."""
        return Draw(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    @property
    def microbatches(self) -> int:
        return self.accumulate

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(filter(None, ("image", self.model.condition.field)))

    def check(self) -> None:
        """Raises InputError for values that cannot make a stage."""
        at_least(1, **{"stage.accumulate": self.accumulate})
        rates(**{"stage.ema_decay": self.ema_decay})
        if self.tokenizer is None:
            raise InputError(
                "stage.tokenizer is not known: pass --config.stage.tokenizer_path=DIR, a trained tokenizer"
            )
        self.tokenizer.check()
        self.model.check()
        self.optimizer.check()
        Guidance(scale=self.guidance).check(self.model.condition.field, self.model.condition_dropout)
        self.model.check_tokenizer(self.tokenizer)

    def build(self, steps: int) -> "Predict":
        """The stage, for a run of `steps` steps: its schedule ends with them."""
        self.check()
        optimizer = optim.make(self.optimizer, steps, self.model.decays)
        return Predict(config=self, rate=optim.schedule(self.optimizer, steps), optimizer=optimizer)


@pytree
@dataclasses.dataclass(frozen=True)
class PredictState:
    """Everything that changes while a prior trains."""

    step: Int[Array, ""]
    model: Prior
    ema: Prior | None
    optimizer: PyTree[Array]


@dataclasses.dataclass(frozen=True)
class Predict:
    """The training of a prior, as functions; see interface.Stage."""

    config: PredictConfig
    rate: optax.Schedule
    optimizer: optim.Optimizer

    def init(self, key: Key[Array, ""]) -> PredictState:
        model = self.config.model.init(key)
        ema = jax.tree.map(jnp.copy, model) if self.config.ema_decay else None  # copies: the state is donated
        return PredictState(jnp.zeros((), jnp.int32), model, ema, self.optimizer.init(model.trained))

    def frozen_shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        assert self.config.tokenizer is not None  # check() refused it
        return {"tokenizer": jax.eval_shape(self.config.tokenizer.init, jax.random.key(0))}

    def propose(
        self, state: PredictState, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Proposal, Metrics]:
        c, tokenizer, trained = self.config, frozen["tokenizer"], state.model.trained

        def loss(trained: PyTree[Array], micro: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
            return state.model.with_trained(trained).loss(tokenizer, _floats(micro), key, train=True)

        read = {name: x for name, x in batch.items() if name in c.fields | {"latent"}}
        grads, metrics = accumulated(loss, c.accumulate, trained, read, key)
        more = {"gradient_norm": optax.global_norm(grads), "learning_rate": jnp.asarray(self.rate(state.step))}

        def take(good: optim.Flag) -> PredictState:
            updated, optimizer = self.optimizer.update(grads, state.optimizer, trained, good)
            model = state.model.with_trained(updated)
            ema = optim.ema_update(state.ema, model, state.step, c.ema_decay) if c.ema_decay else None
            return PredictState(state.step + 1, model, optim.kept(good, ema, state.ema), optimizer)

        return take, metrics | more

    def preview(
        self, state: PredictState, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> dict[str, UInt8[Array, "n h w 3"]]:
        """Samples for the condition of the batch's first images, from the averaged weights where they are kept."""
        c, model, tokenizer = self.config, state.model if state.ema is None else state.ema, frozen["tokenizer"]
        labels = labels_of(batch, model.condition.field)[: c.preview_count]
        codes = model.generate(tokenizer, labels, key, c.draw, guidance=Guidance(scale=c.guidance))
        return {"samples": to_uint8(tokenizer.decode_codes(codes))}

    def evaluate(self, state: PredictState, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> Sums:
        """The losses, by the batch's mean times the images that count; no dropout, and the codes drawn by `key`."""
        model, read = state.model if state.ema is None else state.ema, self.config.fields | {"latent", "counts"}
        own = {name: x for name, x in batch.items() if name in read}
        metrics = model.loss(frozen["tokenizer"], _floats(own), key, train=False)[1]
        images = jnp.sum(batch["counts"].astype(jnp.float32))
        return {"images": images} | {name: images * x for name, x in metrics.items() if "loss" in name}


def _floats(batch: Batch) -> Batch:
    """A batch whose images, if it has any, are in [-1, 1]."""
    return {name: to_float(x) if name == "image" else x for name, x in batch.items()}


def accumulated(
    loss: Callable[[T, Batch, Key[Array, ""]], tuple[Float[Array, ""], Metrics]],
    microbatches: int,
    trained: T,
    batch: Batch,
    key: Key[Array, ""],
) -> tuple[T, Metrics]:
    """The mean gradient and metrics of `loss(trained, microbatch, key) -> (value, metrics)` over equal microbatches.

    Row i of the batch goes to microbatch i % n: each device keeps the rows it has.
    """
    gradient = jax.grad(loss, has_aux=True)
    if microbatches == 1:
        return gradient(trained, batch, key)
    split = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> n b ...", n=microbatches), batch)
    split = jax.tree.map(lambda x: mesh.constrain(x, None, "data"), split)

    def add(total: PyTree[Array], micro: tuple[Batch, Key[Array, ""]]) -> tuple[PyTree[Array], None]:
        found = gradient(trained, *micro)
        return jax.tree.map(lambda t, x: t + x / microbatches, total, found), None

    keys = jax.random.split(key, microbatches)
    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(gradient, trained, first, keys[0])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)), shapes)
    return jax.lax.scan(add, zeros, (split, keys))[0]
