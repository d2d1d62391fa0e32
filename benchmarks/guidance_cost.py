"""The cost of classifier-free guidance: the time of drawing images with it, over that without.

    python benchmarks/guidance_cost.py runs/quickstart/rqtransformer runs/dq/dqtransformer

For each prior, draws with guidance and without it take turns, so that other work of the machine meets both alike, and
the least time of each counts. "CPU" is the time of all cores that this process used, which a busy machine changes less.
Compiling and the memory's estimate are over before. Asserts nothing.
"""

import sys
import time

from rich.console import Console
from rich.table import Table

import rqjax
from rqjax.api import LoadedPrior

COUNT, TURNS = 64, 20
"""Images of a draw, in one batch, and draws of each kind."""


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    head = ("prior", "guidance 1", "guidance 3", "ratio", "CPU 1", "CPU 3", "ratio")
    table = Table(*head, title=f"seconds of {COUNT} images, the least of {TURNS} draws")
    for path in sys.argv[1:]:
        prior = rqjax.load(path)
        if not isinstance(prior, LoadedPrior):
            sys.exit(f"{path} is no prior: give the run directory of one")
        plain, guided = timed(prior)
        cells = [f"{x:.2f}" for i in (0, 1) for x in (plain[i], guided[i], guided[i] / plain[i])]
        table.add_row(type(prior.model).__name__, *cells)
    Console().print(table)


def timed(prior: LoadedPrior) -> list[tuple[float, float]]:
    """The least seconds by the clock and of the cores, without guidance and with it."""
    classes = prior.described.condition.choices
    labels = [i % classes for i in range(COUNT)]
    found: dict[float, list[tuple[float, float]]] = {1.0: [], 3.0: []}
    for turn in range(TURNS + 1):
        for scale, times in found.items():
            clock, cores = time.perf_counter(), time.process_time()
            prior.generate(labels, seed=turn, guidance=scale, progress=False)
            times.append((time.perf_counter() - clock, time.process_time() - cores))
    # the first draw of each compiles
    return [(min(x for x, _ in times[1:]), min(x for _, x in times[1:])) for times in found.values()]


if __name__ == "__main__":
    main()
