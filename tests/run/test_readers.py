"""A reader beside a trainer that saves at each step and keeps one checkpoint: whole models, always."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rqjax.run.directory import Run
from rqjax.store import stored
from rqjax.store.arrays import to_arrays
from tests.configs.smallest import get_config

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).parents[1]
LOADS = 200


def test_every_load_beside_a_trainer_gives_a_whole_checkpoint(tmp_path, figures):
    folder = tmp_path / "run"
    words = [f"--config={HERE / 'configs' / 'smallest.py'}:rqvae", f"--workdir={folder}"]
    flags = ["--config.steps=100000", "--config.keep=1", "--config.data.batch=8"]
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "rqjax", "train", *words, *flags]
    shapes = jax.eval_shape(get_config().stage.build(4).init, jax.random.key(0))
    steps, late = [], 0
    with subprocess.Popen(command, env=environ, cwd=HERE.parent, stdout=subprocess.DEVNULL) as process:
        try:
            while stored.find(folder) is None:
                assert process.poll() is None
                time.sleep(0.1)
            while len(steps) < LOADS:
                assert process.poll() is None
                run = Run.open(folder)
                opened, config = run.step, run.config  # as `rqjax sample` does
                model = run.weights(shapes.model)  # compared with the digests that the trainer wrote
                assert all(np.isfinite(x).all() for x in to_arrays(model).values() if x.dtype.kind == "f")
                assert config.stage.model == get_config().stage.model
                late += run.step != opened
                steps.append(run.step)
        finally:
            process.kill()
    assert steps == sorted(steps)
    figures(
        f"{LOADS} loads beside a trainer",
        f"all whole, of {len(set(steps))} checkpoints up to step {steps[-1]}; {late} were deleted while they were read",
    )
