import dataclasses
import gc
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rqjax import mesh
from rqjax.errors import InputError
from rqjax.store import checkpoint, stored
from rqjax.store.arrays import Place, to_arrays
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
    newest = stored.find(path)
    assert newest.step == 5
    assert stored.steps(path) == [4, 5]
    assert newest.config() == {"a": [1, 2]}
    assert not newest.has("ema")
    assert equal(newest.item("model", abstract.model), state.model)


def test_saves_and_restores_leave_no_measurements_behind(saved):
    """tensorstore never frees those that it gives away."""
    path, abstract, state = saved

    def measurements():
        gc.collect()
        lists = [x for x in gc.get_objects() if type(x) is list and len(x) == 1 and type(x[0]) is dict]
        return sum("value" in x[0] or "sum_of_squared_deviation" in x[0] for x in lists)

    before = measurements()
    with checkpoint.Checkpoints(path, every=2, keep=2) as saves:
        assert saves.save(6, state, {"a": [1, 2]})
    assert equal(stored.find(path).item("model", abstract.model), state.model)
    assert measurements() == before


def test_a_checkpoint_that_is_deleted_while_it_is_read_gives_way_to_the_newest(saved):
    path, abstract, state = saved
    found = stored.find(path)

    def model(checkpoint):
        return checkpoint.item("model", abstract.model)

    shutil.rmtree(path / "checkpoints" / "5" / "digests")  # so far a trainer has come
    with pytest.raises(InputError, match="it was deleted meanwhile"):
        model(found)
    with pytest.raises(InputError, match="it was deleted meanwhile"):
        found.config()
    with checkpoint.Checkpoints(path, every=2, keep=2) as saves:
        assert saves.save(6, state, {"a": [1, 2]})
    there, whole = stored.newest(path, found, model)
    assert there.step == 6
    assert equal(whole, state.model)
    shutil.rmtree(path / "checkpoints" / "6" / "model")
    with pytest.raises(InputError, match=r"cannot read .*checkpoints/6/model"):
        stored.newest(path, there, model)


def test_an_empty_folder_holds_nothing(tmp_path):
    assert stored.find(tmp_path) is None
    assert stored.find(tmp_path / "nowhere") is None


def test_another_shape_is_named(saved):
    other = jax.eval_shape(lambda: nnx.Linear(256, 10, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=r"model/kernel has shape \(256, 512\), expected \(256, 10\)"):
        stored.find(saved[0]).item("model", other)


@pytest.mark.parametrize("victim", ["_METADATA", "manifest.ocdbt", "d"])
def test_truncated_files_give_one_line_and_the_remedy(saved, victim):
    path, abstract, _ = saved
    folder = path / "checkpoints" / "5" / "model"
    files = [folder / victim] if (folder / victim).is_file() else list(folder.rglob("d/*"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(InputError, match=r"cannot read .*: delete .*checkpoints/5 to go on") as caught:
        stored.find(path).item("model", abstract.model)
    assert "\n" not in str(caught.value)
    shutil.rmtree(path / "checkpoints" / "5")
    assert stored.find(path).step == 4


# --- arrays that are stored under other names


def test_rows_of_a_stored_array_come_back_where_they_belong(tmp_path):
    """On a mesh: the rows keep the places that were asked for, and every bit."""
    rows = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    embed = np.arange(64, dtype=np.float32).reshape(8, 8)

    @dataclasses.dataclass(frozen=True)
    class Old:
        model: Any

    with checkpoint.Checkpoints(tmp_path, every=1, keep=1) as saves:
        tree = {"padding": rows, "books": [{"embed": embed}, {"embed": -embed}]}
        assert saves.save(1, Old(tree), {})
    devices = mesh.make_mesh("8x1")
    data, whole = (jax.NamedSharding(devices, jax.P(*axes)) for axes in (("data",), ()))
    shape = jax.ShapeDtypeStruct
    book = {"embed": shape((8, 8), np.float32, sharding=data), "padding": shape((8,), np.float32, sharding=data)}
    like = {"books": [book, book | {"padding": shape((8,), np.float32, sharding=whole)}]}

    def places(wanted, names):
        assert set(names) == {"model/padding", "model/books/0/embed", "model/books/1/embed"}
        return {
            name: Place("model/padding", int(name.split("/")[2])) if "padding" in name else Place(name)
            for name in wanted
        }

    found = stored.find(tmp_path).item("model", like, places)
    assert equal(found, {"books": [{"embed": embed, "padding": rows[0]}, {"embed": -embed, "padding": rows[1]}]})
    assert found["books"][0]["padding"].sharding.is_equivalent_to(data, 1)
    assert found["books"][1]["padding"].sharding.is_equivalent_to(whole, 1)
    with pytest.raises(InputError, match=r"model/padding has shape \(2, 8\), expected \(1, 8\)"):
        stored.find(tmp_path).item("model", {"books": like["books"][:1]}, places)
