"""The search for the nearest code, as the TPU's compiler makes it: its distances need not go to memory.

    PYTHONPATH=. .venv/bin/python benchmarks/codebook_search.py

Compiles the search of 8,192 vectors, those of 128 images of 8x8, among 16,384 codes of 256 numbers, and the encoding of
RQ-VAE in training, four such depths and the learning of the book, for one chip of each generation. Prints the bytes
that the compiled programs hold beside their arguments and results and those that they move, beside the size of an array
of all distances. Asserts nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree
from rich.console import Console
from rich.table import Table

from rqjax.mesh import with_sharding
from rqjax.programs.compile import slice_of
from rqjax.quantize.config import QuantizerConfig
from rqjax.quantize.distance import distances, nearest

VECTORS, CODES, DIM, DEPTH = 8192, 16384, 256, 4
CHIPS = ("v5e:1x1", "v6e:1x1", "v5p:1x1x1")
MIB = 2**20


def figures(function: Callable[..., PyTree], device: jax.Device, *shapes: PyTree) -> tuple[float, float]:
    """MiB of temporaries, and moved."""
    placed = with_sharding(shapes, SingleDeviceSharding(device))
    compiled = jax.jit(function).lower(*placed).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    assert memory is not None  # a TPU's compiler gives both
    assert cost is not None
    return memory.temp_size_in_bytes / MIB, cost["bytes accessed"] / MIB


def main() -> None:
    quantizer = QuantizerConfig(codebook_size=(CODES,), depth=DEPTH)
    book = jax.eval_shape(lambda key: quantizer.init(key, DIM), jax.random.key(0))
    x, embed = jax.ShapeDtypeStruct((VECTORS, DIM), jnp.float32), jax.ShapeDtypeStruct((CODES, DIM), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    programs: dict[str, tuple[Callable[..., PyTree], tuple[PyTree, ...]]] = {
        "distances": (distances, (embed, x)),
        "nearest code": (nearest, (embed, x)),
        f"encoding in training, {DEPTH} depths": (lambda book, x, key: book.encode(x, key, True), (book, x, key)),
    }
    table = Table("chip", "program", "MiB held", "MiB moved", caption=f"distances: {VECTORS * CODES * 4 / MIB:.0f} MiB")
    for chip in CHIPS:
        (device,) = slice_of(chip)[1]
        for name, (function, shapes) in programs.items():
            held, moved = figures(function, device, *shapes)
            table.add_row(chip, name, f"{held:.1f}", f"{moved:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
