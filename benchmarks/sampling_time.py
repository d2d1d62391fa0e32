"""The time of a token when a DQ-Transformer samples, by the number of tokens that came before it.

    python benchmarks/sampling_time.py [TOKENS ...]

Prints the time per token of a small model with the published grids, by default up to 100, 300 and 640 tokens: it
shouldn't rise, because each token passes through the layers once, over caches of a fixed length. Asserts nothing.
"""

import sys
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from rqjax.dq.transformer import DQTransformerConfig
from rqjax.nets.sampling import Draw

BATCH = 8


def make_config() -> DQTransformerConfig:
    return DQTransformerConfig(
        grids=(16, 32),
        codebook_size=256,
        classes=10,
        order="row-first",
        dim=64,
        heads=4,
        position_layers=1,
        content_layers=2,
        block_size=1028,
        embedding_dropout=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        dtype="float32",
        remat=False,
        pack=False,
        row_length=0,
        rows_per_image=1.0,
        pack_groups=1,
        loss_chunk=128,
        position_loss_weight=1.0,
        content_loss_weight=1.0,
    )


def main() -> None:
    model = make_config().init(jax.random.key(0))
    labels = jnp.arange(BATCH)

    def run(limit: int, key: int) -> int:
        rows, _ = model.generate_rows(labels, jax.random.key(key), Draw(), limit=limit)
        return int(jnp.max(jnp.sum(rows.filled, axis=1)))

    run(2, 0)  # compiles: the limit is an argument of the one program
    table = Table("tokens", "seconds", "milliseconds per token", title=f"{BATCH} images at once")
    for limit in [int(argument) for argument in sys.argv[1:]] or [100, 300, 640]:
        start = time.perf_counter()
        drawn = run(limit, 1)
        seconds = time.perf_counter() - start
        table.add_row(str(drawn), f"{seconds:.2f}", f"{1000 * seconds / drawn:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
