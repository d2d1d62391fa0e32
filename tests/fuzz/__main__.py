"""Reads mutants of a format in bounded time and memory: `python -m tests.fuzz --format yaml --count 20000 --seed 1`.

The worker runs with a limit on its address space and under an audit hook; a case that takes longer than ten seconds is
ended with it, and the next worker goes on behind it. Prints one line of figures; status 1 if any case did not hold.
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback

SECONDS = 10
ADDRESS_BYTES = 6 * 2**30
RAN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
"""Events of things that no file may start."""


def readers():
    """By format, the function that reads a file of it: the one that programs call."""
    from rqjax.data import augment
    from rqjax.official import documents
    from rqjax.run.directory import Run
    from rqjax.store.model_folder import ModelFolder
    from rqjax.store.safetensor_file import load_safetensors
    from rqjax.torchfile import file
    from tests.torchfile.test_file_fuzz import arrays_in

    def decoded(path: pathlib.Path) -> None:
        try:
            augment.pixels(path.read_bytes(), 32, "bilinear", 64)
        except MemoryError:
            raise
        except Exception as error:  # the loader's rule: whatever the decoder raises, the file is damaged
            raise RefusedError(str(error)) from None

    def configured(path: pathlib.Path) -> None:
        path.rename(path.with_name("config.json"))
        Run(path.parent, ModelFolder(path.parent)).config  # noqa: B018

    def touched(path: pathlib.Path) -> None:
        for array in itertools.islice(arrays_in(file.load(path, verify=True)), 100):
            array.tobytes()  # a view that reached past its storage would end the process here

    torch = dict.fromkeys(("pickle_zip", "pickle_legacy", "pickle_bare", "zip", "tensors"), touched)
    own = {"safetensors": load_safetensors, "yaml": lambda path: documents.read(documents.read_yaml(path))}
    return torch | own | {"config": configured, "image": decoded}


class RefusedError(Exception):
    """An image that is damaged."""


def work(kind: str, start: int, stop: int, seed: int) -> None:
    """Reads the cases start .. stop - 1, and prints one line of JSON for each."""
    from rqjax.errors import InputError
    from tests.fuzz.mutants import FORMATS

    read, make, seen = readers()[kind], FORMATS[kind], []
    sys.addaudithook(lambda event, _: seen.append(event) if event in RAN else None)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        for index in range(start, stop):
            path = pathlib.Path(folder) / "case"
            content = make(random.Random(f"{kind} {seed} {index}"))
            path.write_bytes(content)
            seen.clear()
            print(json.dumps({"index": index}), flush=True)
            before, begin, outcome = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), "accepted"
            try:
                read(path)
            except (InputError, RefusedError) as error:
                message = str(error)
                outcome = (
                    "refused"
                    if message.isprintable() or isinstance(error, RefusedError)
                    else f"unprintable: {message!a}"
                )
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f"traceback: {type(error).__name__} at {place.filename}:{place.lineno}"
            memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
            outcome = f"ran {seen}" if seen else outcome
            seconds = round(time.monotonic() - begin, 2)
            print(json.dumps({"outcome": outcome, "seconds": seconds, "memory": memory}), flush=True)


def run(kind: str, count: int, seed: int, say=print) -> dict[str, int | float]:
    """The figures of `count` cases: how many were accepted and refused, and which did not hold."""
    figures = {"cases": 0, "accepted": 0, "refused": 0, "failed": 0, "slowest_s": 0.0, "largest_MiB": 0}
    start = 0
    while start < count:
        words = [sys.executable, "-m", "tests.fuzz", "--format", kind, "--worker", str(start), str(count), str(seed)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=pathlib.Path(__file__).parents[2]) as worker:
            for index, found in _lines(worker):
                start = index + 1
                figures["cases"] += 1
                outcome = found["outcome"]
                figures[outcome if outcome in ("accepted", "refused") else "failed"] += 1
                figures["slowest_s"] = max(figures["slowest_s"], found["seconds"])
                figures["largest_MiB"] = max(figures["largest_MiB"], found["memory"])
                if outcome not in ("accepted", "refused"):
                    say(f"{kind} seed {seed} case {index}: {outcome}")
        if start < count and worker.returncode == 0:
            break
    return figures


def _lines(worker: subprocess.Popen):
    """(index, what was found) of each case of a worker, the last one too if it hangs or ends the process."""
    assert worker.stdout is not None
    index, pending, buffer = None, False, b""
    while True:
        # to begin and to end may take longer than a case
        if not select.select([worker.stdout], [], [], SECONDS if pending else 300)[0]:
            worker.kill()
            yield index, {"outcome": f"hang of {SECONDS} s", "seconds": SECONDS, "memory": 0}
            return
        part = os.read(worker.stdout.fileno(), 2**16)
        if not part:
            if worker.wait():
                yield index, {"outcome": f"the process ended with {worker.returncode}", "seconds": 0.0, "memory": 0}
            return
        *whole, buffer = (buffer + part).split(b"\n")
        for line in map(json.loads, whole):
            if "index" in line:
                index, pending = line["index"], True
            else:
                pending = False
                yield index, line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.format, *given.worker)
        return
    figures = run(given.format, given.count, given.seed)
    print(json.dumps({"format": given.format, "seed": given.seed, **figures}))
    sys.exit(1 if figures["failed"] else 0)


if __name__ == "__main__":
    main()
