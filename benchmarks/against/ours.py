"""The side of rqjax in benchmarks/against_pytorch.py: a process that makes each row's job and runs it when told to.

    python -m benchmarks.against.ours SECONDS_SINCE_1970

Steps are those of the stages, with the guard against what is not finite; float32 at the default precision.
"""

import abc
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
from rqjax.dq.sequence import Rows
from rqjax.dq.transformer import DQTransformer
from rqjax.interface import Stage
from rqjax.nets.decoding import unrolled
from rqjax.nets.precision import in_precision
from rqjax.nets.sampling import Draw
from rqjax.official import discriminator
from rqjax.official.convert import import_model, keys
from rqjax.official.documents import ModelConfig, model_config
from rqjax.quantize.dynamic import Codes, packed
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig
from rqjax.rq.vae import RQVAE
from rqjax.run import host_memory
from rqjax.run.skips import Skips, guarded
from rqjax.run.training_step import compiler_options
from rqjax.stages.autoencode import AutoencodeConfig, AutoencodeState
from rqjax.stages.predict import PredictConfig, PredictState

KEY = 0
LEAN: dict[str, Any] = {"remat": True, "keep_products": True}
"""Fields of models whose steps keep the results of products and convolutions, and little more."""


def by_rule(config: ModelConfig) -> Any:
    """A model with the weights of the golden rule: of the kind that its configuration says, hence Any."""
    shared = isinstance(config, RQVAEConfig) and len(config.quantizer.codebook_size) == 1
    return jax.tree.map(jnp.asarray, import_model(served.weights(keys(config), shared), config))


class Step:
    """A training step, compiled at its first run, from a state with the rule's weights."""

    def __init__(self, stage: Stage, state: PyTree, frozen: PyTree, batch: dict[str, np.ndarray]):
        self.step: Any = jax.jit(  # then what it compiles to
            guarded(stage.propose, 10), donate_argnums=0, compiler_options=compiler_options(jax.devices())
        )
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


class Run(abc.ABC):
    """A job that compiles by its first run."""

    def warm(self) -> bool:
        self.run()
        return True

    @abc.abstractmethod
    def run(self) -> None: ...


class Reconstruction(Run):
    """Images through a tokenizer and back."""

    def __init__(self, row: dict[str, Any]):
        self.model = by_rule(model_config(row["tokenizer"]))
        self.image = to_float(served.pixels(row["batch"], self.model.config.resolution))
        self.apply = jax.jit(lambda model, image: model.reconstruct(image))

    def check(self, given: Arrays) -> Arrays:
        found = jax.jit(lambda model, image: model.encode(image))(self.model, self.image)
        codes = {"codes": found} if isinstance(found, jax.Array) else {"codes": found.codes, "grain": found.grain}
        image = self.apply(self.model, self.image)
        return {name: np.asarray(x) for name, x in (codes | {"reconstruction": image}).items()}

    def run(self) -> None:
        self.apply(self.model, self.image).block_until_ready()


class TokenizerStep(Step):
    """A step of a tokenizer with its discriminator; its first run is the check."""

    def __init__(self, row: dict[str, Any]):
        config: Any = model_config(row["tokenizer"])  # a tokenizer's: of RQ or DQ
        self.options = disc = row["discriminator"]
        self.named, self.noise = row["checked"], (row["batch"], *row["noise"]) if row.get("noise") else None
        config = dataclasses.replace(config, **LEAN)
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
        found = {name: np.asarray(self.metrics[name]) for name in self.named}
        if most := self.options.get("disc_weight_max"):
            found["lambda"] = np.minimum(found["lambda"], most)  # the official log has it cut off
        if self.noise:  # as DQVAE.train_forward draws it in the step
            key = jax.random.split(jax.random.split(self.rest[-1])[0])[0]
            found["given_noise"] = np.asarray(jax.random.gumbel(key, self.noise))
        return found


class PriorStep(Step):
    """A step of an RQ-Transformer on given codes; checked without dropout."""

    def __init__(self, row: dict[str, Any]):
        config, model, tokenizer = prior_of(row)
        codes = served.codes((row["batch"], *config.code_shape, config.depth), min(config.sizes))
        self.begin(model, tokenizer, {"latent": codes}, clip_norm=1.0, weight_decay=1e-4)

    def begin(
        self, model: Any, tokenizer: Any, batch: dict[str, np.ndarray], clip_norm: float, weight_decay: float
    ) -> None:
        """Makes the stage of a prior of either family."""
        adam = optim.OptimizerConfig(
            name="adamw", learning_rate=5e-4, b1=0.9, b2=0.95, clip_norm=clip_norm, weight_decay=weight_decay
        )
        stage = PredictConfig(model=model.config, tokenizer=tokenizer.config, optimizer=adam).build(1000)
        state = PredictState(jnp.zeros((), jnp.int32), model, None, stage.optimizer.init(model.trained))
        super().__init__(stage, state, {"tokenizer": tokenizer}, batch)

    def check(self, given: Arrays) -> Arrays:
        tokenizer, codes = self.rest[0]["tokenizer"], self.rest[1]["latent"]
        labels = jnp.zeros(len(codes), jnp.int32)

        def loss(network: PyTree, model: RQTransformer, quantizer: PyTree, codes: jax.Array) -> jax.Array:
            return model.with_trained(network).loss_from_codes(quantizer, codes, labels)[0]

        model = self.state.model
        value, grads = jax.jit(jax.value_and_grad(loss))(model.trained, model, tokenizer.quantizer, codes)
        return {"loss": np.asarray(value), "gradient_norm": np.asarray(optax.global_norm(grads))}


def prior_of(row: dict[str, Any]) -> tuple[RQTransformerConfig, RQTransformer, RQVAE]:
    """A prior that computes as the official one does: no product twice, all logits at once, in float32, against codes;
    and its tokenizer.
    """
    config = model_config(row["prior"])
    assert isinstance(config, RQTransformerConfig)
    once = LEAN | {"loss_chunk": config.code_shape[0] * config.code_shape[1]}
    config = dataclasses.replace(config, dtype="float32", target="hard", stochastic=False, **once)
    tokenizer, model = by_rule(model_config(row["tokenizer"])), by_rule(config)
    assert isinstance(tokenizer, RQVAE)
    assert isinstance(model, RQTransformer)
    return config, model, tokenizer


class Sampling(Run):
    """Codes drawn from an RQ-Transformer; checked by its greedy ones, which the other side judges if ours has its
    weights in fewer bits.
    """

    def __init__(self, row: dict[str, Any]):
        self.config, model, self.tokenizer = prior_of(row)
        self.dtype = row.get("dtype")
        # once, as rqjax.load does
        self.model = unrolled(in_precision(model, self.dtype) if self.dtype else model)
        self.labels, self.draw = np.zeros(row["batch"], np.int32), Draw(top_k=row["top_k"], top_p=row["top_p"])

    def _draw(self, draw: Draw) -> jax.Array:
        return self.model.generate(self.tokenizer, self.labels, jax.random.key(KEY), draw)

    def check(self, given: Arrays) -> Arrays:
        greedy = np.asarray(self._draw(Draw(temperature=0.0)))
        return {"greedy": greedy} | ({"given_codes": greedy} if self.dtype else {})

    def run(self) -> None:
        self._draw(self.draw).block_until_ready()


class DQPriorStep(PriorStep):
    """As above, of a DQ-Transformer, one image in a row. The official rows are as long as the longest of a batch."""

    def __init__(self, row: dict[str, Any]):
        config: Any = model_config(row["prior"])  # a DQTransformerConfig
        config = dataclasses.replace(config, row_lengths=(644, 836), **LEAN)
        model, tokenizer = by_rule(config), by_rule(model_config(row["tokenizer"]))
        codes = Codes(*map(jnp.asarray, served.dynamic_codes(row["batch"], row["grids"], row["codes"])))
        self.begin(model, tokenizer, {"latent": np.asarray(packed(codes))}, clip_norm=0.0, weight_decay=0.01)

    def check(self, given: Arrays) -> Arrays:
        codes = self.rest[0]["tokenizer"].codes_of(self.rest[1])
        labels = jnp.zeros(len(codes.codes), jnp.int32)

        def loss(network: PyTree, model: DQTransformer) -> tuple[jax.Array, dict[str, jax.Array]]:
            return model.with_trained(network).loss_from_codes(codes, labels)

        model = self.state.model
        (_, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.trained, model)
        found = {name: np.asarray(metrics[name]) for name in ("content_loss", "position_loss")}
        return found | {"gradient_norm": np.asarray(optax.global_norm(grads))}


class DQSampling(Run):
    """Codes of half-fine images drawn from a DQ-Transformer. Its greedy ones are for the other side to judge."""

    def __init__(self, row: dict[str, Any]):
        self.model = unrolled(by_rule(model_config(row["prior"])))
        codes, grain = served.dynamic_codes(row["batch"], row["grids"], row["codes"])
        self.given = Codes(jnp.full_like(jnp.asarray(codes), -1), jnp.asarray(grain))
        self.labels = np.zeros(row["batch"], np.int32)
        self.draw = Draw(top_k=row["top_k"], top_p=row["top_p"])

    def _draw(self, draw: Draw) -> tuple[Rows, Codes]:
        return self.model.generate_rows(self.labels, jax.random.key(KEY), draw, given=self.given)

    def check(self, given: Arrays) -> Arrays:
        rows, codes = jax.tree.map(np.asarray, self._draw(Draw(temperature=0.0)))
        count = int(rows.filled[0].sum())
        content = rows.tokens.content[:, 1:count]
        where = content < self.model.config.codebook_size
        return {"greedy": content[where], "given_where": where, "given_codes": codes.codes}

    def run(self) -> None:
        jax.block_until_ready(self._draw(self.draw))


JOBS: dict[str, Callable[[dict[str, Any]], Job]] = {
    "reconstruct": Reconstruction,
    "train tokenizer": TokenizerStep,
    "train prior": PriorStep,
    "sample": Sampling,
    "train dq prior": DQPriorStep,
    "sample dq": DQSampling,
}


def make(row: dict[str, Any]) -> Job:
    if row["job"].startswith("train"):
        host_memory.keep_freed()  # as `rqjax train` does
    return JOBS[row["job"]](row)


if __name__ == "__main__":
    served.serve(float(sys.argv[1]), make)
