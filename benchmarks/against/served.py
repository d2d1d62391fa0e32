"""A side of benchmarks/against_pytorch.py, seen from inside: lines of JSON in, lines of JSON out, one job at a time.

A side makes a job of a row's description, then works when it is told to and only then. It needs NumPy and nothing of
rqjax, so that a Python with PyTorch can run it.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tests.golden.deterministic import det_array, det_image

Arrays = dict[str, np.ndarray]


class Job(Protocol):
    """One workload of one side."""

    def warm(self) -> bool:
        """Compiles, if there is anything to compile; whether that took a run of the workload."""
        ...

    def check(self, given: Arrays) -> Arrays:
        """All that the two sides must agree in, by name; `given` is what the other side said, if it was asked before.
        Names that begin with `given` are there for that, and not compared.
        """
        ...

    def run(self) -> float | None:
        """The workload once, to its end; its seconds, if they are not those that passed."""
        ...


def weights(shapes: dict[str, tuple[int, ...]], shared: bool = False) -> Arrays:
    """The weights that the rule of the golden cases gives for an official state dict's keys and shapes.

    With `shared` the entries of all depths of a codebook are those of the first.
    """
    found: Arrays = {}
    for key, shape in shapes.items():
        if key.endswith("attn.mask"):
            found[key] = past if (past := found.get("mask")) is not None else np.tril(np.ones(shape, np.float32))
            found["mask"] = found[key]  # one array for all layers
            continue
        book, of = shared and key.startswith("quantizer.codebooks."), key.removeprefix("transformer.")
        of = ".".join(["quantizer.codebooks.0", *key.split(".")[3:]]) if book else of
        found[key] = found[of] if book and of in found else det_array(of, shape)
        if of == "pos_emb":
            found[key] = found[key] * np.float32(0.02 * np.prod(shape[1:]) ** 0.5)
    found.pop("mask", None)
    return found


def dynamic_codes(batch: int, grids: Sequence[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [b fine fine] of two grains and the grains [b coarse coarse], half of which are fine, anywhere."""
    (coarse, fine), random = grids, np.random.RandomState(1)
    side = fine // coarse
    half = [random.permutation(coarse * coarse).reshape(coarse, coarse) % 2 for _ in range(batch)]
    grain = np.stack(half).astype(np.int32)
    drawn, whole = codes((batch, fine, fine), size), grain.repeat(side, 1).repeat(side, 2)
    of_region = drawn[:, ::side, ::side].repeat(side, 1).repeat(side, 2)
    return np.where(whole == 0, of_region, drawn), grain


def pixels(batch: int, side: int) -> np.ndarray:
    """Images of the golden rule as bytes, [b h w 3]."""
    images = det_image("against", (batch, 3, side, side)).transpose(0, 2, 3, 1)
    return np.round((images + 1) * 127.5).astype(np.uint8)


def codes(shape: tuple[int, ...], size: int) -> np.ndarray:
    """Any codes below `size`."""
    return np.random.RandomState(0).randint(0, size, shape).astype(np.int32)


def peak_gib() -> float:
    """The most memory that this process held since `forget_peak`, or in all where the system cannot forget."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def forget_peak() -> None:
    """Begins `peak_gib` anew, from what is in use: what compiling and checking left over is given back first."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's keeps what it has
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def serve(started: float, make: Callable[[dict[str, Any]], Job]) -> None:
    """Reads requests from the standard input until it ends; what libraries print goes to the standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=out, flush=True)

    answer(seconds=time.time() - started)
    job: Job | None = None
    for line in sys.stdin:
        request, start, said, ran = json.loads(line), time.perf_counter(), None, True
        if request["do"] == "make":
            job = make(request["row"])
        elif job is None:
            raise ValueError("no job was made")
        elif request["do"] == "warm":
            ran = job.warm()
        elif request["do"] == "check":
            found: dict[str, Any] = job.check(load(request["given"]))
            np.savez(request["path"], **found)
        elif request["do"] == "run":
            said = job.run()
        elif request["do"] == "forget":
            forget_peak()
        passed = time.perf_counter() - start
        answer(seconds=passed if said is None else said, ran=ran, peak=peak_gib())


def load(path: str | None) -> Arrays:
    if path is None:
        return {}
    with np.load(path) as arrays:
        return dict(arrays)
