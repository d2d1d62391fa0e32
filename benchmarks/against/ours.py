"""The side of rqjax in benchmarks/against_pytorch.py: a process that makes each row's job and runs it when told to.

    python -m benchmarks.against.ours SECONDS_SINCE_1970

Steps are those of the stages, with the guard against what is not finite; float32 at the default precision.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from benchmarks.against import served
from benchmarks.against.served import Arrays, Job
from rqjax import optim
from rqjax.data.images import to_float
from rqjax.interface import Stage
from rqjax.nets.sampling import Draw
from rqjax.official import discriminator
from rqjax.official.convert import import_model, keys
from rqjax.official.documents import ModelConfig, model_config
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig
from rqjax.rq.vae import RQVAE, RQVAEConfig
from rqjax.run.skips import Skips, guarded
from rqjax.stages.autoencode import AutoencodeConfig, AutoencodeState
from rqjax.stages.predict import PredictConfig, PredictState

KEY = 0


def by_rule(config: ModelConfig) -> Any:
    """A model with the weights of the golden rule: of the kind that its configuration says, hence Any."""
    shared = isinstance(config, RQVAEConfig) and len(config.quantizer.codebook_size) == 1
    return jax.tree.map(jnp.asarray, import_model(served.weights(keys(config), shared), config))


class Step:
    """A training step, compiled at its first run, from a state with the rule's weights."""

    def __init__(self, stage: Stage, state: PyTree, frozen: PyTree, batch: dict[str, np.ndarray]):
        self.step: Any = jax.jit(guarded(stage.train_step, 10), donate_argnums=0)  # then what it compiles to
        self.state, self.skips = state, Skips.none()
        self.rest = (frozen, jax.tree.map(jnp.asarray, batch), jax.random.key(KEY))
        self.metrics: dict[str, jax.Array] = {}

    def warm(self) -> bool:
        self.step = self.step.lower(self.state, self.skips, *self.rest).compile()
        return False

    def run(self) -> None:
        self.state, self.skips, self.metrics = self.step(self.state, self.skips, *self.rest)
        jax.block_until_ready((self.state, self.metrics))
        if int(self.skips.total):
            raise FloatingPointError("a step was not finite")


class Reconstruction:
    """Images through a tokenizer and back."""

    def __init__(self, row: dict[str, Any]):
        self.model = by_rule(model_config(row["tokenizer"]))
        self.image = to_float(served.pixels(row["batch"], self.model.config.resolution))
        self.apply = jax.jit(lambda model, image: model.reconstruct(image))

    def warm(self) -> bool:
        self.run()
        return True

    def check(self, given: Arrays) -> Arrays:
        codes = jax.jit(lambda model, image: model.encode(image))(self.model, self.image)
        return {"reconstruction": np.asarray(self.apply(self.model, self.image)), "codes": np.asarray(flat(codes))}

    def run(self) -> None:
        self.apply(self.model, self.image).block_until_ready()


def flat(codes: PyTree) -> jax.Array:
    """The codes of a tokenizer as one array."""
    return jax.tree.leaves(codes)[0]


class TokenizerStep(Step):
    """A step of a tokenizer with its discriminator; its first run is the check."""

    def __init__(self, row: dict[str, Any]):
        config: Any = model_config(row["tokenizer"])  # a tokenizer's: of RQ or DQ
        disc = row["discriminator"]
        stage = AutoencodeConfig(model=config, perceptual_weight=0.0, disc_groups=1, **disc).build(1000)
        like = discriminator.shapes(stage.config.disc_ndf, stage.config.disc_num_layers)
        hollow = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like)
        shapes = {key: x.shape for key, x in discriminator.to_torch(hollow).items()}
        critic = discriminator.from_torch(served.weights(shapes))
        model, critic = by_rule(config), jax.tree.map(jnp.asarray, critic)
        state = AutoencodeState(
            step=jnp.zeros((), jnp.int32),
            model=model,
            ema=None,
            discriminator=critic,
            optimizer=stage.optimizer.init(model.trained),
            disc_optimizer=stage.disc_optimizer.init(critic),
        )
        super().__init__(stage, state, None, {"image": served.pixels(row["batch"], config.resolution)})

    def check(self, given: Arrays) -> Arrays:
        self.run()
        return {name: np.asarray(self.metrics[name]) for name in CHECKED}


CHECKED = ("reconstruction", "commitment", "adversarial", "lambda", "discriminator", "gradient_norm")
"""Metrics of a tokenizer's step that the other side has too."""


class PriorStep(Step):
    """A step of an RQ-Transformer on given codes; checked without dropout."""

    def __init__(self, row: dict[str, Any]):
        config, model, tokenizer = prior_of(row)
        theirs: Any = tokenizer.config  # an RQVAEConfig
        optimizer = optim.OptimizerConfig(
            name="adamw", learning_rate=5e-4, b1=0.9, b2=0.95, weight_decay=1e-4, clip_norm=1.0
        )
        stage = PredictConfig(model=config, tokenizer=theirs, optimizer=optimizer).build(1000)
        state = PredictState(jnp.zeros((), jnp.int32), model, None, stage.optimizer.init(model.trained))
        codes = served.codes((row["batch"], *config.code_shape, config.depth), min(config.sizes))
        super().__init__(stage, state, {"tokenizer": tokenizer}, {"latent": codes})

    def check(self, given: Arrays) -> Arrays:
        tokenizer, codes = self.rest[0]["tokenizer"], self.rest[1]["latent"]
        labels = jnp.zeros(len(codes), jnp.int32)

        def loss(network: PyTree, model: RQTransformer, quantizer: PyTree, codes: jax.Array) -> jax.Array:
            return model.with_trained(network).loss_from_codes(quantizer, codes, labels)[0]

        model = self.state.model
        value, grads = jax.jit(jax.value_and_grad(loss))(model.trained, model, tokenizer.quantizer, codes)
        return {"loss": np.asarray(value), "gradient_norm": np.asarray(optax.global_norm(grads))}


def prior_of(row: dict[str, Any]) -> tuple[RQTransformerConfig, RQTransformer, RQVAE]:
    """A prior that computes as the official one does: nothing twice, in float32, against codes; and its tokenizer."""
    config = model_config(row["prior"])
    assert isinstance(config, RQTransformerConfig)
    config = dataclasses.replace(config, dtype="float32", remat=False, target="hard", stochastic=False)
    tokenizer, model = by_rule(model_config(row["tokenizer"])), by_rule(config)
    assert isinstance(tokenizer, RQVAE)
    assert isinstance(model, RQTransformer)
    return config, model, tokenizer


class Sampling:
    """Codes drawn from an RQ-Transformer; checked by its greedy ones."""

    def __init__(self, row: dict[str, Any]):
        self.config, self.model, self.tokenizer = prior_of(row)
        self.labels, self.draw = np.zeros(row["batch"], np.int32), Draw(top_k=row["top_k"], top_p=row["top_p"])

    def _draw(self, draw: Draw) -> jax.Array:
        return self.model.generate(self.tokenizer, self.labels, jax.random.key(KEY), draw)

    def warm(self) -> bool:
        self.run()
        return True

    def check(self, given: Arrays) -> Arrays:
        return {"greedy": np.asarray(self._draw(Draw(temperature=0.0)))}

    def run(self) -> None:
        self._draw(self.draw).block_until_ready()


JOBS: dict[str, Callable[[dict[str, Any]], Job]] = {
    "reconstruct": Reconstruction,
    "train tokenizer": TokenizerStep,
    "train prior": PriorStep,
    "sample": Sampling,
}


if __name__ == "__main__":
    served.serve(float(sys.argv[1]), lambda row: JOBS[row["job"]](row))
