"""Stage 2: a prior over the codes of a frozen tokenizer, which runs inside the step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from rqjax import mesh, optim
from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError
from rqjax.rq.sample import SamplingOptions
from rqjax.stages.interface import Stage
from rqjax.store import checkpoint
from rqjax.store.remote import to_path


def _adamw() -> optim.OptimizerConfig:
    """The optimizer of every published RQ-Transformer; DQ's differ in decay and clipping."""
    return optim.OptimizerConfig(
        name="adamw", learning_rate=5e-4, b1=0.9, b2=0.95, weight_decay=1e-4, clip_norm=1.0, schedule="cosine"
    )


@dataclasses.dataclass(kw_only=True)
class PredictConfig:
    """What a prior is trained with (RQ: spec of the paper's section 3.2 and appendix; AdamW, cosine, clipping).

    `model` is the prior's config, `tokenizer` that of the frozen tokenizer in the run directory `tokenizer_path`.
    `accumulate` microbatches make one step; `ema_decay` 0 keeps no average of the weights.
    `temperature`, `top_k`, `top_p` (0 and 1 turn the filters off) are for the previews of training.
    """

    model: Any
    tokenizer: Any
    tokenizer_path: str = ""
    optimizer: optim.OptimizerConfig = dataclasses.field(default_factory=_adamw)
    accumulate: int = 1
    ema_decay: float = 0.0
    preview_count: int = 8
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def check(self) -> None:
        """Raises InputError for values that cannot make a stage."""
        if self.accumulate < 1:
            raise InputError(f"stage.accumulate is {self.accumulate}: expected at least 1")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"stage.ema_decay is {self.ema_decay}: expected 0 (off) or a value below 1")
        self.tokenizer.check()
        self.model.check()
        self.optimizer.check()
        self.model.check_tokenizer(self.tokenizer)

    def build(self, steps: int) -> Stage:
        """The stage, for a run of `steps` steps: its schedule ends with them."""
        return Stage(
            init=lambda key: _init(self, steps, key),
            frozen=lambda: {"tokenizer": jax.eval_shape(self.tokenizer.init, jax.random.key(0))},
            load_frozen=lambda: {"tokenizer": _load_tokenizer(self)},
            train_step=lambda state, frozen, batch, key: _train_step(self, steps, state, frozen, batch, key),
            preview=lambda state, frozen, batch, key: _preview(self, state, frozen, batch, key),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PredictState:
    """What changes from step to step."""

    step: Any
    model: Any
    ema: Any
    optimizer: Any


def _init(config: PredictConfig, steps: int, key: jax.Array) -> PredictState:
    model = config.model.init(key)
    optimizer = _optimizer(config, steps).init(model.network)
    # A copy: donating one buffer twice is an error.
    ema = jax.tree.map(jnp.copy, model) if config.ema_decay else None
    return PredictState(jnp.zeros((), jnp.int32), model, ema, optimizer)


def _optimizer(config: PredictConfig, steps: int) -> optax.GradientTransformation:
    return optim.make(config.optimizer, steps, getattr(config.model, "decays", None))


def _load_tokenizer(config: PredictConfig) -> Any:
    """The tokenizer in tokenizer_path, if it is the one that the config describes."""
    path = to_path(config.tokenizer_path)
    if not config.tokenizer_path or not path.is_dir():
        raise InputError(
            f"stage.tokenizer_path is {config.tokenizer_path!r}: expected the run directory of a trained tokenizer;"
            " train one first, or pass --config.stage.tokenizer_path=DIR"
        )
    return checkpoint.restore_model(path, jax.eval_shape(config.tokenizer.init, jax.random.key(0)))


def _train_step(config: PredictConfig, steps: int, state: PredictState, frozen: Any, batch: Any, key: jax.Array) -> Any:
    def loss(network: Any, micro: Any, key: jax.Array) -> Any:
        image = to_float(micro["image"])
        return state.model.loss(network, frozen["tokenizer"], image, micro["label"], key, train=True)

    grads, metrics = accumulated(loss, config.accumulate, state.model.network, batch, key)
    updates, optimizer = _optimizer(config, steps).update(grads, state.optimizer, state.model.network)
    model = dataclasses.replace(state.model, network=optax.apply_updates(state.model.network, updates))
    metrics["gradient_norm"] = optax.global_norm(grads)
    metrics["learning_rate"] = optim.schedule(config.optimizer, steps)(state.step)
    ema = optim.ema_update(state.ema, model, state.step, config.ema_decay) if config.ema_decay else None
    return PredictState(state.step + 1, model, ema, optimizer), metrics


def accumulated(loss: Any, microbatches: int, network: Any, batch: Any, key: jax.Array) -> Any:
    """The mean gradient and metrics of `loss(network, microbatch, key) -> (value, metrics)` over equal microbatches.

    Row i of the batch goes to microbatch i % n: each device keeps the rows it has.
    """
    gradient = jax.grad(loss, has_aux=True)
    if microbatches == 1:
        return gradient(network, batch, key)
    split = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> n b ...", n=microbatches), batch)
    split = jax.tree.map(lambda x: mesh.constrain(x, None, "data"), split)

    def add(total: Any, micro: Any) -> Any:
        found = gradient(network, *micro)
        return jax.tree.map(lambda t, x: t + x / microbatches, total, found), None

    keys = jax.random.split(key, microbatches)
    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(gradient, network, first, keys[0])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)), shapes)
    return jax.lax.scan(add, zeros, (split, keys))[0]


def _preview(config: PredictConfig, state: PredictState, frozen: Any, batch: Any, key: jax.Array) -> dict[str, Any]:
    """Samples for the labels of the batch's first images, from the averaged weights where they are kept."""
    model = state.ema if config.ema_decay else state.model
    labels = batch["label"][: config.preview_count]
    options = SamplingOptions(temperature=config.temperature, top_k=config.top_k or None, top_p=config.top_p)
    codes = model.generate(frozen["tokenizer"], labels, key, options)
    return {"samples": to_uint8(frozen["tokenizer"].decode_codes(codes))}
