import dataclasses
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from rqjax import mesh
from rqjax.errors import InputError
from rqjax.store import checkpoint
from rqjax.store.arrays import to_arrays
from tests.conftest import equal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    model: Any
    ema: Any
    optimizer: Any


def init(key):
    model = nnx.Linear(256, 512, rngs=nnx.Rngs(key))
    return State(jnp.int32(7), model, None, optax.adam(1e-3).init(model))


@pytest.fixture
def saved(tmp_path):
    devices = mesh.make_mesh("4x2")
    abstract = jax.eval_shape(init, jax.random.key(0))
    state = jax.jit(init, out_shardings=mesh.shard_state(abstract, devices))(jax.random.key(0))
    saves = checkpoint.Checkpoints(tmp_path, every=2, keep=2)
    assert [saves.save(step, state, {"a": [1, 2]}) for step in (2, 3, 4)] == [True, False, True]
    assert saves.save(5, state, {"a": [1, 2]}, force=True)
    assert not saves.save(5, state, {"a": [1, 2]}, force=True)
    saves.close()
    return tmp_path, abstract, state


def test_state_comes_back_on_another_mesh(saved):
    path, abstract, state = saved
    for shape in ("8x1", "2x4"):
        sharding = mesh.shard_state(abstract, mesh.make_mesh(shape))
        saves = checkpoint.Checkpoints(path, every=2, keep=2)
        assert saves.latest() == 5
        found = saves.restore(mesh.with_sharding(abstract, sharding))
        saves.close()
        assert equal(found, state)
        assert found.ema is None
        assert found.model.kernel.sharding.spec == to_arrays(sharding)["model/kernel"].spec


def test_one_field_comes_back_alone(saved):
    path, abstract, state = saved
    assert checkpoint.exists(path)
    assert checkpoint.latest_step(path) == 5
    assert checkpoint.read_config(path) == {"a": [1, 2]}
    assert not checkpoint.has_item(path, "ema")
    assert equal(checkpoint.restore_item(path, "model", abstract.model), state.model)


def test_copy_is_a_run_directory(saved, tmp_path):
    path, abstract, state = saved
    checkpoint.copy_model(path, tmp_path / "copy", state.model)
    assert checkpoint.latest_step(tmp_path / "copy") == 5
    assert checkpoint.read_config(tmp_path / "copy") == {"a": [1, 2]}
    assert equal(checkpoint.restore_item(tmp_path / "copy", "model", abstract.model), state.model)


def test_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint: expected a run directory"):
        checkpoint.read_config(tmp_path)


def test_another_shape_is_named(saved):
    other = jax.eval_shape(lambda: nnx.Linear(256, 10, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=r"model/kernel has shape \(256, 512\), expected \(256, 10\)"):
        checkpoint.restore_item(saved[0], "model", other)


@pytest.mark.parametrize("victim", ["_METADATA", "manifest.ocdbt", "d"])
def test_truncated_files_give_one_line_and_the_remedy(saved, victim):
    path, abstract, _ = saved
    folder = path / "checkpoints" / "5" / "model"
    files = [folder / victim] if (folder / victim).is_file() else list(folder.rglob("d/*"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(InputError, match=r"cannot read .*: delete .*checkpoints/5 to go on") as caught:
        checkpoint.restore_item(path, "model", abstract.model)
    assert "\n" not in str(caught.value)
    shutil.rmtree(path / "checkpoints" / "5")
    assert checkpoint.latest_step(path) == 4
