"""FID's Inception on a CPU, beside the same network in PyTorch: seconds a batch, and whether both see the same.

    PYTHONPATH=. .venv/bin/python benchmarks/inception.py --torch PYTHON

PYTHON has torch and NumPy. Both get the same random weights and images, take turns, and use the cores that they find;
the first run of each, which compiles, is not counted. PyTorch has channels last and convolutions with their
normalisation folded in, as rqjax does. Times depend on what else the machine does, those of the processor less:
`taskset -c 0` in front gives both one core. A ratio is the median of that of each turn.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from rqjax.nets.inception import MIXED, STEM, Branch, Inception
from rqjax.nets.init import Rngs
from rqjax.store.arrays import to_arrays


def plan(branch: Branch, path: str) -> dict[str, object]:
    """A branch as JSON, with the names of its convolutions' arrays."""
    steps = [
        {"name": f"{path}/convs/{k}", "kernel": step.kernel, "stride": step.stride, "inside": step.inside}
        for k, step in enumerate(branch.steps)
    ]
    return {"pool": branch.pool, "forked": branch.forked, "steps": steps}


def write(network: Inception, path: pathlib.Path) -> None:
    """The network for benchmarks/inception_torch.py; kernels as PyTorch has them."""
    arrays = {name: np.asarray(x) for name, x in to_arrays(network).items() if not name.startswith("head")}
    stem = [plan(Branch(name, (step,)), f"stem/{i}") for i, (name, step) in enumerate(STEM.items())]
    blocks = [[plan(b, f"blocks/{i}/{j}") for j, b in enumerate(block)] for i, block in enumerate(MIXED.values())]
    turned = {name: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for name, x in arrays.items()}
    np.savez(path, plan=json.dumps([stem, blocks]), **turned)  # pyrefly: ignore  (any name may be an array's)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", required=True, help="a Python that has torch and NumPy")
    parser.add_argument("--batch", type=int, default=8, help="images at once (8)")
    parser.add_argument("--turns", type=int, default=7, help="turns that each takes (7)")
    given, console = parser.parse_args(), Console()
    network = jax.jit(lambda key: Inception(rngs=Rngs(key)))(jax.random.key(0))
    image = np.random.default_rng(0).uniform(-1, 1, (given.batch, 299, 299, 3)).astype(np.float32)
    look = jax.jit(lambda net, x: net(x).features)
    ours = np.asarray(look(network, image))
    with tempfile.TemporaryDirectory() as name:
        weights, images, out = (pathlib.Path(name) / file for file in ("weights.npz", "images.npy", "features.npy"))
        write(network, weights)
        np.save(images, image)
        script = pathlib.Path(__file__).with_name("inception_torch.py")
        words = [given.torch, str(script), str(weights), str(images), str(out)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            if other.stdout.readline().strip() != "ready":
                raise SystemExit(f"{given.torch} could not run {script.name}")
            theirs, turns = np.load(out), []
            for _ in range(given.turns):
                start, worked = time.perf_counter(), time.process_time()
                jax.block_until_ready(look(network, image))
                spent = time.perf_counter() - start, time.process_time() - worked
                other.stdin.write("again\n")
                other.stdin.flush()
                turns.append((spent, tuple(map(float, other.stdout.readline().split()))))
            other.stdin.close()
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    found = Table(f"Inception of {given.batch} images, medians", "seconds", "seconds of the processor")
    for name, spent in zip(("rqjax", "PyTorch"), zip(*turns, strict=True), strict=True):
        found.add_row(name, *(f"{statistics.median(x):.2f}" for x in zip(*spent, strict=True)))
    console.print(found)
    ratios = [statistics.median(a[k] / b[k] for a, b in turns) for k in range(2)]
    console.print(
        f"rqjax takes {ratios[0]:.2f} times as long, and {ratios[1]:.2f} times as much of the processor;"
        f" features differ by {error:.1e} of their norm"
    )
    if error > 1e-4:
        raise SystemExit("the two networks are not the same")


if __name__ == "__main__":
    main()
