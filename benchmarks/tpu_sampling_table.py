"""The cost of drawing images on one TPU chip, and on four: the table of sampling in docs/tpu.md.

    PYTHONPATH=. python benchmarks/tpu_sampling_table.py --plans docs/plans/sampling --into docs/tpu.md
    PYTHONPATH=. python benchmarks/tpu_sampling_table.py --plans docs/plans/sampling --only imagenet_rqtransformer:1400m

Compiles one sampler after the other with `rqjax compile --quick --sample N`, both models in bfloat16 and whole on each
chip, with as many images a chip as fit of 500, 250, 125, ... It keeps what was said in --plans: what is there is not
compiled again (delete it after a change). Each takes one to three minutes of two cores.
"""

import argparse
import pathlib
import sys
from typing import Any

from benchmarks.tpu_table import ALIKE, STEPS, compiled, put
from rqjax.cost.chips import GIB

PRIORS = [step for step in STEPS if "transformer" in step]
CHIPS = {"v5e": "1x1", "v6e": "1x1", "v5p": "1x1x1", "v5e, four": "2x2"}
INT8 = ("imagenet_rqtransformer:3800m",)
"""Those that have a row for weights in int8 too."""
MOST = {"dqtransformer": 125, "3800m": 250, "": 500}
"""Images a chip that are tried first, by a part of the name; a sequence of DQ has up to 1,027 tokens."""
START = "<!-- table: benchmarks/tpu_sampling_table.py -->"


def largest(prior: str, dtype: str, chip: str, folder: pathlib.Path) -> dict[str, Any] | None:
    """The plan of the most images that `prior` draws at once there; None if not even a few fit."""
    topology, devices = f"{chip[:3]}:{CHIPS[chip]}", 4 if "four" in chip else 1
    images = next(most for part, most in MOST.items() if part in prior)
    kind = "" if dtype == "bfloat16" else f"-{dtype}"
    while images > 1:
        path = folder / f"{prior}-{topology}-{images * devices}{kind}.json".replace(":", "-")
        found = compiled(prior, topology, path, "--sample", str(images * devices), "--dtype", dtype)
        said = found.get("error") or ("fits" if found["fits"] else f"needs {found['needs']}")
        print(f"{prior}, {images * devices} images on {topology}: {said}", file=sys.stderr, flush=True)
        if found.get("fits"):
            return found
        images //= 2
    return None


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none"
    seconds, sent = found["roofline_seconds"], sum(x["bytes"] for x in found["collectives"].values())
    limit = max(("compute", "memory", "links"), key=seconds.get)
    images, peak = found["images"], found["peak_bytes"] / GIB
    rate = f"{images:,} at once, {peak:.1f} GiB, <= {images / seconds['step']:,.0f}/s"
    return f"{rate} ({limit}{f', {sent:,} bytes sent' if sent else ''})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="priors whose names begin so")
    parser.add_argument("--chips", nargs="*", default=list(CHIPS), choices=list(CHIPS))
    parser.add_argument("--into", type=pathlib.Path)
    asked = parser.parse_args()
    if asked.into and (asked.only or asked.chips != list(CHIPS)):
        parser.error("--only and --chips make a part of the table, --into replaces the whole of it")
    asked.plans.mkdir(parents=True, exist_ok=True)
    priors = [(prior, "bfloat16") for prior in PRIORS] + [(prior, "int8") for prior in INT8]
    priors = [pair for pair in priors if not asked.only or pair[0].startswith(tuple(asked.only))]
    rows = [f"| prior | {' | '.join(asked.chips)} |", "|" + "---|" * (len(asked.chips) + 1)]
    for prior, dtype in priors:
        cells = [cell(largest(prior, dtype, chip, asked.plans)) for chip in asked.chips]
        names = f"{prior}, {ALIKE[prior]}" if prior in ALIKE else prior + (f" in {dtype}" if dtype == "int8" else "")
        rows.append(f"| {names} | {' | '.join(cells)} |")
    made = "\n".join(rows)
    print(made)
    if asked.into:
        put(made, asked.into, START)


if __name__ == "__main__":
    main()
