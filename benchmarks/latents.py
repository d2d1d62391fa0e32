"""The saving by latents in a prior's training step: the share of operations outside the transformer, and time.

    PYTHONPATH=. .venv/bin/python benchmarks/latents.py [--counted CONFIG] [--timed CONFIG]

The first tables count operations (rqjax.cost) of a step from images, from latents (vectors, of which each step draws
codes and soft targets), and from given codes with hard targets, which is the transformer alone. Then the steps of the
smaller configuration from images and from latents are timed by turns on one device, beside what their operations let
expect. Prints and asserts nothing.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from rqjax.api.program import condition_shape
from rqjax.cost import flops
from rqjax.flags.configuration import Asked
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run import config_file
from rqjax.run.skips import unguarded
from rqjax.stages.predict import Predict, PredictConfig

KINDS = ("images", "latents", "given codes")
STEPS, TURNS, ROWS = 1000, 7, 8


def stage_of(name: str, kind: str) -> Predict:
    """The stage of a shipped configuration of an RQ prior, in one microbatch; with hard targets for given codes."""
    stage = config_file.load(Asked(name)).stage
    if not isinstance(stage, PredictConfig) or not isinstance(stage.model, RQTransformerConfig):
        raise SystemExit(f"{name} trains no RQ-Transformer")
    model = stage.model
    if kind == "given codes":
        model = dataclasses.replace(model, target="hard", stochastic=False)
    return dataclasses.replace(stage, model=model, accumulate=1).build(STEPS)


def shapes_of(stage: Predict, kind: str, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a step."""
    tokenizer: Any = stage.config.tokenizer
    condition, size, (h, w) = stage.config.model.condition, tokenizer.resolution, tokenizer.code_shape
    name, shape, dtype = {
        "images": ("image", (size, size, 3), jnp.uint8),
        "latents": ("latent", (h, w, tokenizer.code_dim), jnp.bfloat16),
        "given codes": ("latent", (h, w, tokenizer.quantizer.depth), jnp.int32),
    }[kind]
    led = {condition.field: condition_shape(condition, rows)} if condition.field else {}
    return {name: jax.ShapeDtypeStruct((rows, *shape), dtype), **led}


def operations(name: str, kind: str, rows: int = ROWS) -> float:
    """Operations of a step for an image."""
    stage, key = stage_of(name, kind), jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(stage.init, key)
    step = jax.jit(unguarded(stage.propose)).trace(state, stage.frozen_shapes(), shapes_of(stage, kind, rows), key)
    return flops.count(step.jaxpr).total / rows


def step_of(name: str, kind: str, rows: int) -> Callable[[], float]:
    """A function that makes one step and gives its seconds; it is compiled and warm."""
    stage, generator = stage_of(name, kind), np.random.default_rng(0)
    tokenizer: Any = stage.config.tokenizer
    frozen = {"tokenizer": tokenizer.init(jax.random.key(0))}
    batch: dict[str, jax.Array] = {}
    for field, x in shapes_of(stage, kind, rows).items():
        drawn = generator.integers(0, 256, x.shape) if field == "image" else generator.normal(size=x.shape)
        batch[field] = jnp.asarray(drawn if field in ("image", "latent") else np.zeros(x.shape), x.dtype)
    state, step, count = stage.init(jax.random.key(1)), jax.jit(unguarded(stage.propose), donate_argnums=0), 0

    def one() -> float:
        nonlocal state, count
        start = time.perf_counter()
        state, metrics = step(state, frozen, batch, jax.random.fold_in(jax.random.key(2), count))
        jax.block_until_ready((state, metrics))
        count += 1
        return time.perf_counter() - start

    one()
    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counted", default="imagenet_rqtransformer:1400m", help="a configuration of an RQ prior")
    parser.add_argument("--timed", default="photos:128-prior", help="a smaller one")
    parser.add_argument("--rows", type=int, default=4, help="images of a timed step (4)")
    given, console = parser.parse_args(), Console()
    for name in (given.counted, given.timed):
        counts = {kind: operations(name, kind) for kind in KINDS}
        table = Table(f"a step of {name} from", "GFLOP an image", "of these not the transformer's")
        for kind, count in counts.items():
            table.add_row(kind, f"{count / 1e9:.1f}", f"{1 - counts['given codes'] / count:.2%}")
        console.print(table)
    steps = {kind: step_of(given.timed, kind, given.rows) for kind in KINDS[:2]}
    seconds = [{kind: step() for kind, step in steps.items()} for _ in range(TURNS)]
    medians = {kind: statistics.median(turn[kind] for turn in seconds) for kind in steps}
    ratio, expected = medians["images"] / medians["latents"], counts["images"] / counts["latents"]
    said = ", ".join(f"{kind} {median:.2f} s" for kind, median in medians.items())
    console.print(f"{given.timed}, {given.rows} images a step: {said}: {ratio:.2f} times; by operations {expected:.2f}")


if __name__ == "__main__":
    main()
