"""Runs killed with `kill -9` at random moments, in saves above all, go on as if nothing had been; on any mesh."""

import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from rqjax.run.log import read_metrics
from rqjax.store import stored
from tests.configs.smallest import get_config

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).parents[1]
MESHES = {"rqvae": ((1, "1x1"), (8, "8x1"), (2, "2x1")), "rqtransformer": ((1, "1x1"), (8, "2x4"), (8, "8x1"))}
"""Numbers of devices and meshes of them; the first is that of the run which nobody kills."""
KILLS = 5
"""For each model on one mesh, and as many on changing ones: 20 in all."""
MORE = 5
"""Steps after the last kill."""
READING = threading.Lock()


class Run:
    """A run directory and the processes that worked on it."""

    def __init__(self, variant, folder, cache, tokenizer=None):
        self.folder, self._cache, self._tokenizer = folder, cache, tokenizer
        self._config = get_config(variant)
        stage = self._config.stage.build(10)
        self._shapes = jax.eval_shape(stage.init, jax.random.key(0))
        self._words = [f"--config={HERE / 'configs' / 'smallest.py'}:{variant}", f"--workdir={folder}"]

    def start(self, steps, devices, over):
        """A process that works until `steps`, saving at each."""
        flags = [f"steps={steps}", f"mesh={over}"]
        if self._tokenizer:
            flags.append(f"stage.tokenizer_path={self._tokenizer}")
        command = [sys.executable, "-m", "rqjax", "train", *self._words, *(f"--config.{flag}" for flag in flags)]
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parent),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def finish(self, steps, devices, over):
        with self.start(steps, devices, over) as process:
            assert process.wait(300) == 0

    def lines(self):
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def saving(self):
        """The saves that are not whole: those under way, or what a kill has left of them."""
        return {path.name for path in (self.folder / "checkpoints").glob("*tmp*")}

    def latest(self):
        """The newest checkpoint, which is read whole; 0 without one."""
        with READING:
            newest = stored.find(self.folder)
            if newest is None:
                return 0
            names = ("step", "model", "optimizer")
            step, *_ = (newest.item(name, getattr(self._shapes, name)) for name in names)
            assert int(step) == newest.step
            return int(step)


def until(process, condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended by itself"
        assert time.monotonic() < end
        time.sleep(0.002)


def kill(run, process, moment, chance):
    """kill -9 at a moment of one kind; True if a save was cut off."""
    if moment == "anywhere":  # while it starts, reads or compiles, or later
        time.sleep(chance.uniform(1, 6))
    else:
        before = run.lines()
        until(process, lambda: run.lines() > before)
        time.sleep(chance.uniform(0, 0.5))
        if moment == "save":
            left = run.saving()
            until(process, lambda: run.saving() - left)
            time.sleep(chance.uniform(0, 0.1))
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return bool(run.saving())


def killed(run, meshes, chance):
    """Kills one process after the other, the next on the next mesh, and lets the last come to its end.

    Returns how many kills cut a save off, and for each step of the curve the mesh on which it was computed.
    """
    cut, starts, over = 0, [0], itertools.cycle(meshes)
    for moment in ["anywhere", *chance.sample(["save", "save", "step", "save"], KILLS - 1)]:
        process = run.start(100_000, *next(over))
        try:
            cut += kill(run, process, moment, chance)
        finally:
            process.kill()
            process.wait()
        starts.append(run.latest())
    assert starts == sorted(starts)  # no kill took a checkpoint away
    steps = starts[-1] + MORE
    run.finish(steps, *next(over))
    assert run.latest() == steps
    spans = itertools.pairwise([*starts, steps])
    return cut, [mesh for mesh, (a, b) in zip(itertools.cycle(meshes), spans, strict=False) for _ in range(a, b)]


def losses(folder, steps):
    lines = read_metrics(folder)[:steps]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    return [{name: x for name, x in line.items() if name != "images_per_second"} for line in lines]


def difference(a, b):
    """The largest relative difference of a loss between two curves."""
    names = [name for name in a[0] if name.startswith("loss")]
    assert names
    return max(abs(x[name] - y[name]) / abs(y[name]) for x, y in zip(a, b, strict=True) for name in names)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, cache):
    run = Run("rqvae", tmp_path_factory.mktemp("tokenizer"), cache)
    run.finish(4, *MESHES["rqvae"][0])
    return run.folder


@pytest.mark.parametrize("variant", ["rqvae", "rqtransformer"])
def test_killed_runs_equal_one_that_nobody_killed(variant, request, cache, tmp_path, figures):
    start = request.getfixturevalue("tokenizer") if variant == "rqtransformer" else None
    one, many = (Run(variant, tmp_path / name, cache, start) for name in ("one", "many"))
    straight = {over: Run(variant, tmp_path / over[1], cache, start) for over in MESHES[variant]}
    first, *others = MESHES[variant]
    with ThreadPoolExecutor() as pool:
        plans = ((one, [first]), (many, [first, *others]))
        tasks = [pool.submit(killed, run, over, random.Random(f"{variant} on {over}")) for run, over in plans]
        (one_cut, one_over), (many_cut, many_over) = (task.result() for task in tasks)
        steps = {first: max(len(one_over), len(many_over))} | dict.fromkeys(others, len(many_over))
        list(pool.map(lambda over: straight[over].finish(steps[over], *over), steps))

    curves = {over: losses(run.folder, steps[over]) for over, run in straight.items()}
    assert losses(one.folder, len(one_over)) == curves[first][: len(one_over)]
    found = losses(many.folder, len(many_over))
    same = difference(found, [curves[over][i] for i, over in enumerate(many_over)])
    across = difference(found, curves[first][: len(found)])
    figures(f"{variant}: {KILLS} kills, {one_cut} in a save, one mesh", f"{len(one_over)} steps equal bit for bit")
    names = ", ".join(name for _, name in MESHES[variant])
    figures(
        f"{variant}: {KILLS} kills, {many_cut} in a save, meshes {names}",
        f"losses of {len(found)} steps within {same:.1e} of the mesh's own curve, {across:.1e} of the first mesh's",
    )
    assert one_cut + many_cut >= KILLS
    assert max(same, across) < 1e-6
