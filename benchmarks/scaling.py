"""How an RQ-Transformer's training step grows with its sizes: time, memory, and the arithmetic that they should follow.

    PYTHONPATH=. python benchmarks/scaling.py --quick                       # four minutes of two cores
    PYTHONPATH=. python benchmarks/scaling.py --plot docs/scaling.png --json scaling.json

One size at a time is doubled from a small model on, and the others stay: layers of the body, width, images of a batch,
codes of a stack, codes of a book, positions. The step is that of given codes: loss, gradients and AdamW, in float32, on
one device. Values of an axis run by turns, and medians are told. Slopes are exponents (1: twice the size, twice the
time), fitted to all values of an axis in log-log; that of the operations is counted from the program.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from rqjax import optim
from rqjax.cost import flops
from rqjax.quantize import QuantizerConfig
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig

matplotlib.use("Agg")
from matplotlib import pyplot

OPTIMIZER = optim.OptimizerConfig(name="adamw", learning_rate=1e-4, clip_norm=1.0)
HEAD = 64
"""Numbers of an attention head: width adds heads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of one step."""

    layers: int = 4  # of the body; the head has half as many
    width: int = 256
    batch: int = 4
    depth: int = 4
    codebook: int = 2048
    side: int = 8  # of the map of positions

    @property
    def config(self) -> RQTransformerConfig:
        return RQTransformerConfig(
            code_shape=(self.side, self.side),
            depth=self.depth,
            codebook_size=(self.codebook,),
            dim=self.width,
            input_dim=64,
            body_layers=self.layers,
            head_layers=2,
            body_heads=self.width // HEAD,
            head_heads=self.width // HEAD,
            classes=10,
            dtype="float32",
            target="hard",
            stochastic=False,
            loss_chunk=self.side**2,
        )


AXES: dict[str, tuple[int, ...]] = {
    "layers": (2, 4, 8, 16),
    "width": (128, 256, 512, 1024),
    "batch": (2, 4, 8, 16),
    "depth": (2, 4, 8, 16),
    "codebook": (1024, 4096, 16384),
    "side": (4, 8, 16),
}
QUICK = {name: values[:3] for name, values in AXES.items()}
FACTOR = {"side": 2}
"""Positions grow with the square of the side; slopes are over positions."""


State = tuple[RQTransformer, Any]


class Step:
    """A step of one size, compiled, with what its compiler and its arithmetic say."""

    def __init__(self, sizes: Sizes):
        config, optimizer = sizes.config, optim.make(OPTIMIZER, steps=1000)
        quantizer = QuantizerConfig(codebook_size=(sizes.codebook,)).init(jax.random.key(1), config.input_dim)
        model = config.init(jax.random.key(0))
        shape = (sizes.batch, sizes.side, sizes.side, sizes.depth)
        codes = jax.random.randint(jax.random.key(2), shape, 0, sizes.codebook)
        labels = jnp.arange(sizes.batch) % 10

        def step(state: State, quantizer: Any, codes: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
            model, moments = state

            def loss(trained: Any) -> jax.Array:
                return model.with_trained(trained).loss_from_codes(quantizer, codes, labels)[0]

            value, gradients = jax.value_and_grad(loss)(model.trained)
            trained, moments = optimizer.update(gradients, moments, model.trained)
            return (model.with_trained(trained), moments), value

        self.state, self.rest = (model, optimizer.init(model.trained)), (quantizer, codes, labels)
        traced = jax.jit(step, donate_argnums=0).trace(self.state, *self.rest)
        self.operations = flops.count(traced.jaxpr).total
        started = time.perf_counter()
        self.step = traced.lower().compile()
        self.compile_seconds = time.perf_counter() - started
        memory = self.step.memory_analysis()
        assert memory is not None  # CPUs, GPUs and TPUs give it
        self.bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        self.seconds: list[float] = []
        self.run()
        self.seconds.clear()  # the first run pays for more than itself

    def run(self) -> None:
        started = time.perf_counter()
        self.state, value = self.step(self.state, *self.rest)
        loss = float(value)
        self.seconds.append(time.perf_counter() - started)
        if not np.isfinite(loss):
            raise FloatingPointError("a step is not finite: its time is that of another computation")


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent that fits `values` over `sizes` best: the slope of their logarithms by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure(name: str, values: Sequence[int], rounds: int) -> dict[str, Any]:
    """One axis: its values as counts, and for each the median seconds, the bytes and the operations."""
    steps = [Step(dataclasses.replace(Sizes(), **{name: value})) for value in values]
    for _ in range(rounds):
        for step in steps:
            step.run()
    return {
        "sizes": [value ** FACTOR.get(name, 1) for value in values],
        "seconds": [statistics.median(step.seconds) for step in steps],
        "bytes": [step.bytes for step in steps],
        "operations": [step.operations for step in steps],
        "compile_seconds": [step.compile_seconds for step in steps],
    }


def shown(found: dict[str, dict[str, Any]]) -> Table:
    columns = ("axis", "sizes", "ms a step", "MiB", "slope of time", "of memory", "of operations", "compile, s")
    table = Table(*columns)
    for name, x in found.items():
        slopes = (f"{slope(x['sizes'], x[key]):.2f}" for key in ("seconds", "bytes", "operations"))
        table.add_row(
            "positions" if name == "side" else name,
            " ".join(map(str, x["sizes"])),
            " ".join(f"{1000 * seconds:.0f}" for seconds in x["seconds"]),
            " ".join(f"{size / 2**20:.0f}" for size in x["bytes"]),
            *slopes,
            " ".join(f"{seconds:.1f}" for seconds in x["compile_seconds"]),
        )
    return table


def plot(found: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
    """Each axis by itself, all curves as multiples of their first value."""
    figure, places = pyplot.subplots(2, 3, figsize=(10, 6), constrained_layout=True)
    for place, (name, x) in zip(places.flat, found.items(), strict=True):
        for key, mark in (("seconds", "o-"), ("bytes", "s-"), ("operations", "k--")):
            label = f"{key}, slope {slope(x['sizes'], x[key]):.2f}"
            place.loglog(x["sizes"], np.divide(x[key], x[key][0]), mark, label=label)
        place.set_title("positions" if name == "side" else name)
        place.set_xticks(x["sizes"], [str(size) for size in x["sizes"]])
        place.minorticks_off()
        place.legend(fontsize=8)
    figure.suptitle("a training step of RQ-Transformer, as multiples of the smallest")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three values of each axis, three rounds")
    parser.add_argument("--plot", type=pathlib.Path, help="a file for the curves, .png or .svg")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the figures")
    asked = parser.parse_args()
    if asked.plot and asked.plot.suffix not in (".png", ".svg"):
        parser.error(f"--plot is {asked.plot}: expected a name that ends in .png or .svg")
    jax.config.update("jax_enable_compilation_cache", False)
    axes, rounds = (QUICK, 3) if asked.quick else (AXES, 7)
    found = {name: measure(name, values, rounds) for name, values in axes.items()}
    Console(width=120).print(shown(found))
    if asked.plot:
        plot(found, asked.plot)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
