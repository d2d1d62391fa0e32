"""A run that is killed with `kill -9` again and again, at any point of a save and of its commit, ends with the arrays
of one that nobody killed.

Each process is forked from one that has imported everything, counts what Python does to the checkpoints' folder (makes,
opens to write, renames, deletes), and kills itself at such a point or a few milliseconds behind it, while tensorstore
writes.
"""

import itertools
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import threading

import jax
import pytest

from rqjax.programs.train import train
from rqjax.run.config import Config
from rqjax.store import stored
from tests.configs import smallest, tiny
from tests.conftest import equal
from tests.run.test_faults import losses

pytestmark = pytest.mark.slow

KILLS = {"classifier": 24, "rqvae": 12}
MORE = 2
"""Steps before the first kill, and behind the last."""
DELAYS = 0.03
"""Seconds within which half of the kills come behind their point: the time that tensorstore takes to write a save."""
MANY = 100_000
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
"""Audit events of Python, raised before what they name is done."""


def configured(variant: str) -> Config:
    config = smallest.get_config(variant) if variant == "rqvae" else tiny.get_config(variant)
    config.save_every = config.log_every = 1
    config.data.batch, config.mesh = 8, "1x1"
    return config


def changes(event: str, args: tuple, folder: str) -> bool:
    """Whether an audit event changes what lies in a folder."""
    if event == "open":
        path, mode, flags = args
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else not mode.startswith("r")
        return writes and str(path).startswith(folder)
    if event in {"os.remove", "os.rmdir"} and args[1] != -1:  # within a tree that is being deleted: a bare name
        return True
    return event in CHANGES and str(args[0]).startswith(folder)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def process(variant: str, folder: pathlib.Path, steps: int, at: int, delay: float, cache: str, count) -> None:
    """Trains until `steps`, or until it dies `delay` seconds behind its change number `at` of the checkpoints."""
    saves, numbers = str(folder / stored.FOLDER), itertools.count(1)

    def watch(event: str, args: tuple) -> None:
        if changes(event, args, saves):
            count.value = number = next(numbers)  # never the same in two threads
            if number == at:
                threading.Timer(delay, die).start() if delay else die()

    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    config = configured(variant)
    config.steps = steps
    sys.addaudithook(watch)
    train(config, folder)


class Run:
    """A run directory and the processes that work on it, one after the other."""

    def __init__(self, variant: str, folder: pathlib.Path, cache: pathlib.Path):
        self.folder, self._variant, self._cache = folder, variant, str(cache)
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([__name__])

    def work(self, steps: int, at: int = 0, delay: float = 0.0) -> int:
        """One process, which ends at `steps` or as its kill asks; how often it changed the checkpoints."""
        count = self._forks.Value("i", 0, lock=False)
        one = self._forks.Process(
            target=process, args=(self._variant, self.folder, steps, at, delay, self._cache, count)
        )
        one.start()
        try:
            one.join(300)
            assert one.exitcode is not None, "it neither ends nor dies"
        finally:
            one.kill()
        assert one.exitcode == (-signal.SIGKILL if at else 0)
        return count.value

    def step(self) -> int:
        newest = stored.find(self.folder)
        return newest.step if newest else 0

    def cut(self) -> bool:
        """Whether a save was left half-written, under no name of a checkpoint."""
        return any("tmp" in path.name for path in (self.folder / stored.FOLDER).iterdir())


def arrays(folder: pathlib.Path, shapes: object) -> dict[str, object]:
    """All that the newest checkpoint of a run holds of a state of these shapes, compared with its digests."""
    newest = stored.find(folder)
    return {name: newest.item(name, part) for name, part in vars(shapes).items() if newest.has(name)}


@pytest.mark.parametrize("variant", KILLS)
def test_arrays_of_a_run_killed_in_its_saves_equal_those_of_one_that_nobody_killed(variant, tmp_path, figures):
    shapes = jax.eval_shape(configured(variant).stage.build(MANY).init, jax.random.key(0))
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown if it fails
    chance = random.Random(seed)
    killed, alone = (Run(variant, tmp_path / name, tmp_path / "cache") for name in ("killed", "alone"))
    of_a_save = killed.work(MORE) // MORE
    cut, starts = 0, [killed.step()]
    for _ in range(KILLS[variant]):
        killed.work(MANY, chance.randint(1, 2 * of_a_save), chance.choice([0, chance.uniform(0, DELAYS)]))
        cut += killed.cut()
        starts.append(killed.step())
    assert starts == sorted(starts)  # no kill took a checkpoint away
    steps = starts[-1] + MORE
    for run in (killed, alone):
        run.work(steps)
    assert killed.step() == alone.step() == steps
    assert equal(arrays(killed.folder, shapes), arrays(alone.folder, shapes))
    assert losses(killed.folder, steps) == losses(alone.folder, steps)
    figures(f"{variant}: {len(starts) - 1} kills, {cut} left a save half-written", f"{steps} steps, all arrays equal")
