"""A classifier of real images, by which the quickstart judges what a prior draws."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rqjax import optim
from rqjax.data.images import to_float
from rqjax.nets.classifier import ClassifierConfig
from rqjax.stages.interface import Stage


@dataclasses.dataclass(kw_only=True)
class ClassifyConfig:
    """Cross-entropy on labelled images."""

    model: ClassifierConfig
    optimizer: optim.OptimizerConfig

    def check(self) -> None:
        """Raises InputError for values that cannot make a stage."""
        self.model.check()
        self.optimizer.check()

    def build(self, steps: int) -> Stage:
        """The stage, for a run of `steps` steps."""
        return Stage(
            init=lambda key: _init(self, steps, key),
            frozen=lambda: None,
            load_frozen=lambda: None,
            train_step=lambda state, frozen, batch, key: _train_step(self, steps, state, batch),
            preview=lambda state, frozen, batch, key: {},
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifyState:
    """What changes from step to step."""

    step: Any
    model: Any
    optimizer: Any


def _init(config: ClassifyConfig, steps: int, key: jax.Array) -> ClassifyState:
    model = config.model.init(key)
    return ClassifyState(jnp.zeros((), jnp.int32), model, optim.make(config.optimizer, steps).init(model.network))


def _train_step(config: ClassifyConfig, steps: int, state: ClassifyState, batch: Any) -> Any:
    image, labels, network = to_float(batch["image"]), batch["label"], state.model.network
    grads, metrics = jax.grad(state.model.loss, has_aux=True)(network, image, labels)
    updates, optimizer = optim.make(config.optimizer, steps).update(grads, state.optimizer, network)
    model = dataclasses.replace(state.model, network=optax.apply_updates(network, updates))
    return ClassifyState(state.step + 1, model, optimizer), metrics | {"gradient_norm": optax.global_norm(grads)}
