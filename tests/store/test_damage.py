"""Flipped bits, cut, zeroed and missing files of checkpoints and model folders: found, or of no consequence."""

import dataclasses
import json
import pathlib
import random
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rqjax import mesh
from rqjax.errors import InputError
from rqjax.store import model_folder, stored
from rqjax.store.checkpoint import Checkpoints
from rqjax.store.digests import ITEM, digest, pieces, sums
from tests.conftest import equal

STEP = 4
CONFIG = {"rate": 0.25, "names": ["a", "b"]}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    model: nnx.Linear
    optimizer: optax.OptState


def init(key: jax.Array) -> State:
    """No array is constant: what compresses to nothing would hide damage."""
    model = nnx.Linear(40, 50, rngs=nnx.Rngs(key))
    return State(jnp.int32(STEP), model, jax.tree.map(jnp.copy, (model, model)))


@dataclasses.dataclass(frozen=True)
class Kept:
    """A folder on disk, how all of it is read, what must come of it, and what a message about damage must say."""

    folder: pathlib.Path
    read: Callable[[pathlib.Path], tuple[object, object]]
    whole: tuple[object, object]
    advice: str


def shapes():
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return mesh.with_sharding(jax.eval_shape(init, jax.random.key(0)), place)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with one checkpoint."""
    folder, state = tmp_path_factory.mktemp("run"), init(jax.random.key(0))
    with Checkpoints(folder, every=1, keep=2) as saves:
        assert saves.save(STEP, state, CONFIG)

    def read(folder):
        """All that a resumption and a reader of the run read."""
        checkpoint = stored.find(folder)
        if checkpoint is None:
            raise InputError("no checkpoint: delete it to go on")
        config = checkpoint.config()
        with Checkpoints(folder, every=1, keep=2) as saves:
            return saves.restore(shapes()), config

    return Kept(folder, read, (state, CONFIG), f"checkpoints/{STEP} to go on")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An exported folder."""
    folder, model = tmp_path_factory.mktemp("exported") / "folder", init(jax.random.key(0)).model
    model_folder.save(folder, CONFIG, {"model": model}, "")

    def read(folder):
        found = model_folder.ModelFolder(folder)
        config = found.config()
        if set(config) - set(CONFIG):  # as `from_dict` does
            raise InputError("unknown fields")
        return found.item("model", shapes().model), config

    return Kept(folder, read, (model, CONFIG), "")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def found(kept, copy, path, content):
    """Whether damage is found: a copy of the folder is read whose file at `path` holds `content` (None: is gone)."""
    shutil.copytree(kept.folder, copy)
    victim = copy / path.relative_to(kept.folder)
    victim.unlink() if content is None else victim.write_bytes(content)
    try:
        arrays, config = kept.read(copy)
    except InputError as error:
        text = str(error)
    else:
        text = ""
        assert equal(arrays, kept.whole[0]), path
        assert config == kept.whole[1], path
    finally:
        shutil.rmtree(copy)
    assert not text or (kept.advice in text and "\n" not in text)
    return bool(text)


def flips(kept, copy, number, seed):
    """How many of so many flipped bits are found: half of them in any file, half in any byte, so in the large ones."""
    chance, whole = random.Random(seed), [path for path in files(kept.folder) if path.stat().st_size]
    sizes = [path.stat().st_size for path in whole]
    count = 0
    for i in range(number):
        path = chance.choices(whole, sizes if i % 2 else None)[0]
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        count += found(kept, copy, path, bytes(content))
    return count


def test_a_flipped_bit_of_an_array_is_found_by_its_name(run, tmp_path):
    path = max((run.folder / "checkpoints" / str(STEP) / "model").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    shutil.copytree(run.folder, tmp_path / "copy")
    (tmp_path / "copy" / path.relative_to(run.folder)).write_bytes(content)
    here = tmp_path / "copy" / "checkpoints" / str(STEP)
    with pytest.raises(InputError, match=rf"the array model/kernel is not as it was saved\): delete {here} to go on"):
        run.read(tmp_path / "copy")


def test_flipped_bits_are_found_or_harmless(run, exported, tmp_path):
    assert flips(run, tmp_path / "copy", 10, seed=0) >= 3
    assert flips(exported, tmp_path / "copy", 30, seed=0) >= 25


@pytest.mark.slow
def test_200_flipped_bits_are_found_or_harmless(run, exported, tmp_path, figures):
    for name, kept, least in (("a checkpoint", run, 80), ("an exported folder", exported, 180)):
        count = flips(kept, tmp_path / "copy", 200, seed=1)
        figures(f"200 flipped bits in {name}", f"{count} found, {200 - count} without consequence")
        assert count >= least


def spoiled(path):
    """The file gone, empty, cut, and of zeros."""
    content = path.read_bytes()
    return (None, b"", content[: len(content) // 2], bytes(len(content)))


def test_files_that_are_gone_or_cut_are_found(run, exported, tmp_path):
    inside = run.folder / "checkpoints" / str(STEP)
    largest = max((inside / "model").rglob("d/*"), key=lambda path: path.stat().st_size)
    for path in (largest, inside / ITEM / "0.json"):
        for content in spoiled(path):
            assert found(run, tmp_path / "copy", path, content), (path, content)
    assert found(run, tmp_path / "copy", inside / "config" / "metadata", None)
    for path in files(exported.folder):
        for content in spoiled(path):
            assert found(exported, tmp_path / "copy", path, content), (path, content)


@pytest.mark.slow
def test_any_file_may_be_gone_cut_or_zeros(run, tmp_path, figures):
    outcomes = [found(run, tmp_path / "copy", path, content) for path in files(run.folder) for content in spoiled(path)]
    figures(
        "files of a checkpoint gone, empty, cut or zeros", f"{sum(outcomes)} of {len(outcomes)} found, others harmless"
    )
    assert sum(outcomes) >= len(outcomes) // 3


def test_checkpoints_and_folders_without_digests_load(run, exported, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEP) / ITEM)
    assert equal(run.read(tmp_path / "run")[0], run.whole[0])
    shutil.copytree(exported.folder, tmp_path / "exported")
    (tmp_path / "exported" / "config.json").write_text(json.dumps(CONFIG | {"rate": 0.5}))
    assert exported.read(tmp_path / "exported")[1] == CONFIG | {"rate": 0.5}


# --- the digest


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "bool"])
def test_pieces_add_up_and_any_change_of_one_element_shows(kind):
    array = (np.arange(240).reshape(6, 4, 10) % (2 if kind == "bool" else 100)).astype(jnp.dtype(kind))
    whole = digest(array)
    cuts = [(slice(a, a + 3), slice(b, b + 2), slice(None)) for a in (0, 3) for b in (0, 2)]
    assert sum(digest(array[cut], cut) for cut in cuts) % 2**64 == whole
    seen = {whole}
    for place in range(array.nbytes):
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[place] ^= 1
        seen.add(digest(changed))
    assert len(seen) == 1 + array.nbytes
    assert digest(array[..., ::-1]) != whole
    assert digest(np.zeros((3, 0), kind)) == 0


def test_a_sum_over_a_mesh_is_that_of_the_array():
    array = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    for shape, axes in (("8x1", ("data", None)), ("4x2", ("model", "data")), ("2x4", (None, None))):
        placed = jax.device_put(array, jax.NamedSharding(mesh.make_mesh(shape), jax.P(*axes)))
        assert sums(pieces({"a": placed})) == {"a": digest(array)}
