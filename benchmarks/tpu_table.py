"""The smallest TPU slice of every generation that each published training step fits on: the table of docs/tpu.md.

    python benchmarks/tpu_table.py --plans docs/plans --into docs/tpu.md [--jobs 2]
    python benchmarks/tpu_table.py --plans docs/plans --only imagenet_rqvae ...

Compiles one step after the other with `rqjax compile --quick`, from the smallest slice upwards, and keeps what it said
in --plans: what is there is not compiled again (delete a step's plans after a change to it). With --into the table
replaces the one in that file. From nothing it takes hours of two cores.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
from typing import Any

from rqjax.cost.chips import GIB

STEPS = (
    "imagenet_rqvae",
    "ffhq_rqvae",
    "imagenet_rqtransformer:480m",
    "imagenet_rqtransformer:800m",
    "imagenet_rqtransformer:1400m",
    "imagenet_rqtransformer:3800m",
    "ffhq_rqtransformer",
    "lsun_rqtransformer:church",
    "lsun_rqtransformer:cat",
    "cc3m_rqtransformer",
    "text_rqtransformer",
    "imagenet_dqvae:dual_feature",
    "imagenet_dqvae:dual_entropy",
    "imagenet_dqvae:triple",
    "imagenet_dqtransformer:class",
    "imagenet_dqtransformer:uncond",
)
ALIKE = {
    "imagenet_rqvae": "lsun_rqvae",
    "lsun_rqtransformer:cat": "lsun_rqtransformer:bedroom",
    "imagenet_dqvae:dual_entropy": "ffhq_dqvae",
    "imagenet_dqtransformer:uncond": "ffhq_dqtransformer",
}
"""Steps that differ from another in numbers alone, as a threshold or a schedule: one row serves both."""
FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")
SLICES = {"v4": DEEP, "v5e": FLAT, "v5p": DEEP, "v6e": FLAT}
REFUSED = 2
"""The status of `rqjax` for what cannot be asked, as a batch that no mesh of a slice divides."""
START, END = "<!-- table: benchmarks/tpu_table.py -->", "<!-- end of table -->"


def plan(step: str, topology: str, folder: pathlib.Path) -> dict[str, Any]:
    """The compiler's figures for `step` on `topology`, kept ones if there are any; {"error": why} without such a step.

    Ends the program, and keeps nothing, if the compiler was cut short: that is not an answer.
    """
    return compiled(step, topology, folder / f"{step}-{topology}.json".replace(":", "-"))


def compiled(step: str, topology: str, path: pathlib.Path, *more: str) -> dict[str, Any]:
    """The figures that `path` keeps, or those of `rqjax compile --quick` with `more` flags, kept there from now on."""
    if not path.is_file():
        file, _, variant = step.partition(":")
        config = f"configs/{file}.py" + (f":{variant}" if variant else "")
        asked = [sys.executable, "-m", "rqjax", "compile", "--quick", "--config", config, "--topology", topology]
        done = subprocess.run([*asked, "--json", str(path), *more], capture_output=True, text=True, check=False)
        if not path.is_file():
            reason = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            if done.returncode != REFUSED:
                raise SystemExit(f"{step} on {topology} ended with status {done.returncode}: {reason}")
            path.write_text(json.dumps({"error": reason}) + "\n")
    return json.loads(path.read_text())


def smallest(step: str, generation: str, folder: pathlib.Path) -> dict[str, Any] | None:
    """The plan of the smallest slice of `generation` that `step` fits on."""
    for shape in SLICES[generation]:
        found = plan(step, f"{generation}:{shape}", folder)
        said = found.get("error") or ("fits" if found["fits"] else f"needs {found['needs']}")
        print(f"{step} on {generation}:{shape}: {said}", file=sys.stderr, flush=True)
        if found.get("fits"):
            return found
    return None


def row(step: str, plans: list[dict[str, Any] | None]) -> str:
    names = f"{step}, {ALIKE[step]}" if step in ALIKE else step
    return f"| {names} | " + " | ".join(cell(found) for found in plans) + " |"


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none"
    slice_ = found["topology"].partition(":")[2]
    peak, state = found["peak_bytes"] / GIB, found["state_bytes"] / GIB
    images = found["images"] / found["roofline_seconds"]["step"]
    return f"{slice_}: {peak:.1f} ({state:.1f}) GiB, <= {images:,.0f}/s"


def table(plans: dict[tuple[str, str], dict[str, Any] | None], steps: list[str]) -> str:
    head = [
        f"| step | {' | '.join(SLICES)} |",
        "|" + "---|" * (len(SLICES) + 1),
    ]
    return "\n".join(head + [row(step, [plans[step, generation] for generation in SLICES]) for step in steps])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="steps whose names begin so")
    parser.add_argument("--into", type=pathlib.Path)
    asked = parser.parse_args()
    if asked.only and asked.into:
        parser.error("--only makes a part of the table, --into replaces the whole of it: give one of them")
    asked.plans.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if not asked.only or step.startswith(tuple(asked.only))]
    pairs = [(step, generation) for step in steps for generation in SLICES]
    with concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
        plans = dict(zip(pairs, pool.map(lambda pair: smallest(pair[0], pair[1], asked.plans), pairs), strict=True))
    made = table(plans, steps)
    print(made)
    if asked.into:
        put(made, asked.into, START)


def put(made: str, into: pathlib.Path, start: str) -> None:
    """Replaces what stands between the mark `start` and the next END."""
    before, found, rest = into.read_text().partition(start)
    if not found:
        raise SystemExit(f"{into} has no line {start}")
    into.write_text(f"{before}{start}\n{made}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
