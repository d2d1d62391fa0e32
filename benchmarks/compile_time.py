"""How long the prior's training step takes to lower and compile, and how large its program is, by number of layers.

    python benchmarks/compile_time.py [LAYERS ...]

Prints a table for the loss and its gradients with a small width (by default 12 and 42 layers); asserts nothing.
"""

import sys
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from rqjax.quantize import QuantizerConfig
from rqjax.rq.transformer import RQTransformer, RQTransformerConfig


def make_config(layers: int) -> RQTransformerConfig:
    return RQTransformerConfig(
        codebook_size=(256,),
        dim=64,
        input_dim=32,
        body_layers=layers,
        head_layers=4,
        body_heads=4,
        head_heads=4,
        classes=10,
        dtype="float32",
        target="hard",
        stochastic=False,
        loss_chunk=16,
    )


def measure(layers: int) -> tuple[float, float, int]:
    """Seconds to lower, seconds to compile, and characters of the program."""
    config = make_config(layers)
    codes = jax.ShapeDtypeStruct((4, 8, 8, 4), jnp.int32)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    model = jax.eval_shape(config.init, jax.random.key(0))
    quantizer = jax.eval_shape(lambda key: QuantizerConfig(codebook_size=(256,)).init(key, 32), jax.random.key(0))

    def loss(model: RQTransformer, quantizer, codes, labels, key):
        return model.loss_from_codes(quantizer, codes, labels, key=key)[0]

    start = time.perf_counter()
    lowered = jax.jit(jax.value_and_grad(loss)).lower(model, quantizer, codes, labels, jax.random.key(0))
    middle = time.perf_counter()
    lowered.compile()
    return middle - start, time.perf_counter() - middle, len(lowered.as_text())


def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    counts = [int(word) for word in sys.argv[1:]] or [12, 42]
    measure(2)  # the first program of a process pays for more than itself
    table = Table("layers", "lower (s)", "compile (s)", "program (characters)", "ratio")
    first = None
    for layers in counts:
        lower, compiled, size = measure(layers)
        first = first or lower + compiled
        table.add_row(str(layers), f"{lower:.2f}", f"{compiled:.2f}", str(size), f"{(lower + compiled) / first:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
