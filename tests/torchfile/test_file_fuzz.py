"""Damaged and hostile files, 1600 of them: `python -m tests.torchfile.test_file_fuzz FOLDER` runs them all."""

import itertools
import json
import os
import pathlib
import pickle
import random
import resource
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np

from rqjax.errors import InputError
from rqjax.store.safetensor_file import load_safetensors
from rqjax.torchfile import pickles
from rqjax.torchfile.file import load
from rqjax.torchfile.foreign import Foreign
from tests.torchfile.hostile_pickles import as_legacy, as_legacy_keys, as_zip, attacks, excesses, tensor

FILES = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"
MUTATIONS = {
    "zip.pt": 200,
    "lightning.ckpt": 100,
    "legacy.pt": 150,
    "lightning_legacy.ckpt": 50,
    "tensors.safetensors": 200,
}
CASE_BYTES = 2**24
PROCESS_BYTES = 2**31


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One to three of: a flipped bit, a changed, inserted or deleted run of bytes, a number made huge, a truncation."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = chance.randrange(len(data))
        run = chance.choice((1, 2, 4, 8, 100))
        kind = chance.randrange(7)
        if kind < 2:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[place : place + run] = chance.randbytes(run)
        elif kind == 3:
            data[place:place] = chance.randbytes(run)
        elif kind == 4:
            del data[place : place + run]
        elif kind == 5:
            data[place : place + min(run, 8)] = chance.choice((b"\xff", b"\x7f", b"\0")) * min(run, 8)
        else:
            del data[max(place, 1) :]
    return bytes(data)


def arrays_in(value, seen=None):
    """All arrays anywhere in `value`."""
    seen = set() if seen is None else seen
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (dict, list, tuple, set, frozenset, Foreign)) and id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, dict):
            parts = [*value.keys(), *value.values()]
        elif isinstance(value, Foreign):
            parts = [value.arguments, value.state, value.items, value.entries]
        else:
            parts = value
        for part in parts:
            yield from arrays_in(part, seen)


def attempt(path, read):
    """What `read` gets from `path`, every byte of it touched; None if it refuses. Any other error is a failure."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        value, message = read(path), f"{path}: loaded"
    except InputError as error:
        value, message = None, str(error)
    assert message.startswith(f"{path}: "), message
    assert "\n" not in message, message
    for array in arrays_in(value):
        assert array.nbytes < CASE_BYTES
        array.tobytes()
    assert tracemalloc.get_traced_memory()[1] - before < CASE_BYTES
    return value


def tensors_of(value):
    state = value.get("state_dict") if isinstance(value, dict) else None
    return {key: tensor.tobytes() for key, tensor in state.items()} if isinstance(state, dict) else None


def run_mutations(folder: pathlib.Path, counts: dict[str, int]):
    for name, count in MUTATIONS.items():
        content = (FILES / name).read_bytes()
        original = tensors_of(load(FILES / name)) if name != "tensors.safetensors" else None
        for index in range(count):
            path = folder / f"case_{name}"
            path.write_bytes(mutate(content, random.Random(f"{name} {index}")))
            if original is None:
                value = attempt(path, load_safetensors)
            else:
                value = attempt(path, load)
                checked = attempt(path, lambda path: load(path, verify=True))
                if checked is not None and zipfile.is_zipfile(path):
                    assert tensors_of(checked) == original, (name, index)
            counts["loaded" if value is not None else "refused"] += 1


def run_hostile(folder: pathlib.Path, counts: dict[str, int]):
    sentinel = folder / "sentinel"
    forms = {"zip": as_zip, "legacy": as_legacy, "magic": lambda code: code, "keys": as_legacy_keys}
    for (name, code), (form, build) in itertools.product(attacks(str(sentinel)), forms.items()):
        path = folder / "hostile.pt"
        path.write_bytes(build(code))
        value = attempt(path, load)
        assert not sentinel.exists(), (form, name)
        assert "this" not in sys.modules, (form, name)
        counts["inert" if value is not None else "refused"] += 1


def run_excesses(folder: pathlib.Path, counts: dict[str, int]):
    pickles.STEPS = 50_000
    for (name, code), build in itertools.product(excesses(), (as_zip, as_legacy)):
        path = folder / "excess.pt"
        path.write_bytes(build(code))
        assert attempt(path, load) is None, (name, build)
        counts["refused"] += 1
    for path, content in (("numbers.pt", as_zip(tensor())), ("old.pt", as_legacy(tensor()))):
        (folder / path).write_bytes(content)
        np.testing.assert_array_equal(attempt(folder / path, load), np.arange(8))


def main(folder: pathlib.Path) -> dict[str, int]:
    """Runs every case under a limit of the address space; counts how they ended."""
    resource.setrlimit(resource.RLIMIT_AS, (PROCESS_BYTES, PROCESS_BYTES))
    tracemalloc.start()
    counts = dict.fromkeys(("loaded", "refused", "inert"), 0)
    for run in (run_mutations, run_hostile, run_excesses):
        run(folder, counts)
    assert not (folder / "sentinel").exists()
    return counts


def test_the_attacks_are_real(tmp_path):
    """The standard unpickler falls for them, so that the sentinel's absence means something."""
    real = 0
    for name, code in attacks(str(tmp_path / "sentinel")):
        if name in ("GLOBAL os.system", "STACK_GLOBAL builtins.eval", "INST posix.system", "OBJ builtins.exec"):
            pickle.loads(code)
            assert (tmp_path / "sentinel").exists(), name
            (tmp_path / "sentinel").unlink()
            real += 1
    assert real == 4


def test_attacks_become_inert_records(tmp_path):
    for name, code in attacks("sentinel"):
        if name.startswith(("GLOBAL os", "STACK_GLOBAL os", "NEWOBJ os")):
            (tmp_path / "a.pt").write_bytes(as_zip(code))
            record = load(tmp_path / "a.pt")
            assert type(record) is Foreign
            assert record.module == "os"
            assert record.arguments in (("touch sentinel",), ("sentinel",))


def test_a_thousand_damaged_and_hostile_files(tmp_path):
    """In a process of its own, so that a crash, a hang and excessive memory are seen as what they are."""
    worker = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.torchfile.test_file_fuzz", str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=False, cwd=FILES.parents[2],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert worker.returncode == 0, worker.stderr[-3000:]
    counts = json.loads(worker.stdout)
    assert sum(counts.values()) >= 1000
    assert min(counts.values()) > 0
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


if __name__ == "__main__":
    print(json.dumps(main(pathlib.Path(sys.argv[1]))))
