"""A classifier of real images, by which the quickstart judges what a prior draws."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from rqjax import optim
from rqjax.data.images import to_float
from rqjax.interface import Batch, Metrics, Proposal, Sums
from rqjax.nets.classifier import Classifier, ClassifierConfig, Network
from rqjax.quantize.pytree import pytree
from rqjax.stages.measure import total


@dataclasses.dataclass(kw_only=True)
class ClassifyConfig:
    """Cross-entropy on labelled images."""

    model: ClassifierConfig  # the classifier
    optimizer: optim.OptimizerConfig  # of its weights

    microbatches = 1
    fields = frozenset({"image", "label"})

    def check(self) -> None:
        """Raises InputError for values that cannot make a stage."""
        self.model.check()
        self.optimizer.check()

    def build(self, steps: int) -> "Classify":
        """The stage, for a run of `steps` steps."""
        return Classify(self, optim.make(self.optimizer, steps))


@pytree
@dataclasses.dataclass(frozen=True)
class ClassifyState:
    """Everything that changes while a classifier trains."""

    step: Int[Array, ""]
    model: Classifier
    ema: None
    optimizer: PyTree[Array]


@dataclasses.dataclass(frozen=True)
class Classify:
    """The training of a classifier, as functions; see interface.Stage."""

    config: ClassifyConfig
    optimizer: optim.Optimizer

    def init(self, key: Key[Array, ""]) -> ClassifyState:
        model = self.config.model.init(key)
        return ClassifyState(jnp.zeros((), jnp.int32), model, None, self.optimizer.init(model.network))

    def frozen_shapes(self) -> None:
        return None

    def propose(
        self, state: ClassifyState, frozen: None, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Proposal, Metrics]:
        image, labels = to_float(batch["image"]), batch["label"]

        def loss(network: Network) -> tuple[Float[Array, ""], Metrics]:
            return Classifier(network).loss(image, labels)

        grads, metrics = jax.grad(loss, has_aux=True)(state.model.network)

        def take(good: optim.Flag) -> ClassifyState:
            network, optimizer = self.optimizer.update(grads, state.optimizer, state.model.network, good)
            return ClassifyState(state.step + 1, Classifier(network), None, optimizer)

        return take, metrics | {"gradient_norm": optax.global_norm(grads)}

    def preview(
        self, state: ClassifyState, frozen: None, batch: Batch, key: Key[Array, ""]
    ) -> dict[str, UInt8[Array, "n h w 3"]]:
        return {}

    def evaluate(self, state: ClassifyState, frozen: None, batch: Batch, key: Key[Array, ""]) -> Sums:
        """`loss` and `accuracy`."""
        logits, labels = state.model.network(to_float(batch["image"])), batch["label"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hit = (jnp.argmax(logits, -1) == labels).astype(jnp.float32)
        return total({"loss": loss, "accuracy": hit}, batch["counts"])
