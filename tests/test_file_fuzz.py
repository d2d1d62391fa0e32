"""Damaged and hostile files, 1600 of them: `python tests/test_file_fuzz.py FOLDER` runs them all."""

import io
import itertools
import json
import os
import pathlib
import pickle
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np

from rqjax.errors import InputError
from rqjax.pytorch import pickle_stream, unpickle
from rqjax.pytorch.file import load
from rqjax.pytorch.foreign import Foreign
from rqjax.pytorch.legacy import MAGIC_NUMBER, VERSION
from rqjax.pytorch.safetensor_file import load_safetensors

FILES = pathlib.Path(__file__).parent / "golden" / "torch_files"
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


def as_zip(code: bytes, **records: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        for name, content in {"data/0": np.arange(8, dtype=np.float32).tobytes(), "version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def as_legacy(code: bytes) -> bytes:
    head = [pickle.dumps(value, 2) for value in (MAGIC_NUMBER, VERSION, {})]
    if b"Storage" not in code:
        return b"".join(head) + code + pickle.dumps([], 2)
    data = struct.pack("<q", 8) + np.arange(8, dtype=np.float32).tobytes()
    return b"".join(head) + code + pickle.dumps(["0"], 2) + data


def as_legacy_keys(code: bytes) -> bytes:
    return as_legacy(b"N.").removesuffix(pickle.dumps([], 2)) + code


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def attacks(sentinel: str):
    """(name, pickle) of calls that would create `sentinel` if anything ran, by every instruction that calls."""
    command = f"touch {sentinel}"
    code = f"open({sentinel!r}, 'w')"
    calls = [
        ("os", "system", command),
        ("posix", "system", command),
        ("subprocess", "getoutput", command),
        ("subprocess", "check_call.__call__", command),
        ("builtins", "eval", code),
        ("builtins", "exec", code),
        ("__builtin__", "eval", code),
        ("builtins", "open", sentinel),
        ("builtins", "__import__", "this"),
        ("importlib", "import_module", "this"),
        ("pathlib", "Path.touch", sentinel),
        ("os", "mkdir", sentinel),
        ("collections", "OrderedDict.__class__.__base__.__subclasses__", command),
        ("torch", "hub.load", command),
        ("torch._utils", "os.system", command),
        ("torch._utils", "_rebuild_tensor_v2.__globals__.__getitem__", "os"),
        ("numpy.core.multiarray", "scalar.__self__", command),
        ("_codecs", "lookup", command),
        ("copyreg", "add_extension", command),
    ]
    for module, name, argument in calls:
        named = b"c" + f"{module}\n{name}\n".encode()
        stacked = text(module) + text(name) + b"\x93"
        wrapped = text(argument) + b"\x85"
        yield f"GLOBAL {module}.{name}", b"\x80\2" + named + wrapped + b"R."
        yield f"STACK_GLOBAL {module}.{name}", b"\x80\4" + stacked + wrapped + b"R."
        yield f"NEWOBJ {module}.{name}", b"\x80\2" + named + wrapped + b"\x81."
        yield f"NEWOBJ_EX {module}.{name}", b"\x80\4" + stacked + wrapped + b"}" + text("a") + text("b") + b"s\x92."
        yield f"OBJ {module}.{name}", b"(" + named + text(argument) + b"o."
        yield f"INST {module}.{name}", b"(" + text(argument) + f"i{module}\n{name}\n".encode() + b"."
        yield (
            f"BUILD {module}.{name}",
            b"\x80\2" + named + b")R}" + text("__setstate__") + named + b"sb" + wrapped + b"b.",
        )
        yield f"PERSID {module}.{name}", b"\x80\2(" + text("storage") + named + text("0") + text("cpu") + b"K\x08tQ."
        yield (
            f"factory {module}.{name}",
            b"\x80\2ccollections\ndefaultdict\n" + named + b"\x85R" + text("a") + text("b") + b"s.",
        )
        yield f"hooks {module}.{name}", tensor(hooks=named + wrapped + b"R")
        yield (
            f"subclass {module}.{name}",
            b"\x80\2ctorch._tensor\n_rebuild_from_type_v2\n(" + named + named + wrapped + b"NtR.",
        )


def integer(value: int) -> bytes:
    return b"\x8a" + bytes([length := value.bit_length() // 8 + 1]) + value.to_bytes(length, "little", signed=True)


def integers(values) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(offset=0, size=(8,), stride=(1,), length=8, kind="torch\nFloatStorage", key="0", hooks=b"N") -> bytes:
    storage = b"(" + text("storage") + f"c{kind}\n".encode() + text(key) + text("cpu") + integer(length) + b"tQ"
    shape = integer(offset) + integers(size) + integers(stride)
    return b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n(" + storage + shape + b"\x89" + hooks + b"tR."


def excesses():
    """(name, pickle) of claims that a careless reader would believe: each must be refused."""
    huge = 2**40
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR"
    dtype = (
        b"cnumpy\ndtype\n"
        + text("f4")
        + b"\x89\x88\x87R(K\3"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    yield "size", tensor(size=(huge,))
    yield "stride", tensor(size=(2, 4), stride=(5, 1))
    yield "negative stride", tensor(stride=(-1,))
    yield "negative offset", tensor(offset=-1)
    yield "offset", tensor(offset=1)
    yield "expanded", tensor(size=(huge,), stride=(0,))
    yield "empty", tensor(size=(0, huge, huge), stride=(1, 1, 1))
    yield "overflow", tensor(size=(2**62, 4), stride=(1, 1))
    yield "dimensions", tensor(size=(1,) * 65, stride=(1,) * 65)
    yield "ranks", tensor(size=(2, 2), stride=(1,))
    yield "storage length", tensor(length=huge)
    yield "negative length", tensor(length=-8)
    yield "storage key", tensor(key="../../../etc/passwd")
    yield "storage type", tensor(kind="torch\nQInt8Storage")
    yield "no storage", b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n(NK\0))\x89NtR."
    yield "arguments", b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n)R."
    yield "wrong dtype", tensor().replace(b"_v2", b"_v3").replace(b"NtR.", b"Nctorch\nfloat32\ntR.")
    yield "persistent id", b"\x80\2K\1Q."
    yield "persistent text", b"P0\n."
    yield "memo index", b"\x80\2]r\xff\xff\xff\xffj\xff\xff\xff\x7f."
    yield "bytes", b"\x80\4\x8e" + struct.pack("<Q", 2**62) + b"abc."
    yield "buffer", b"\x80\5\x96" + struct.pack("<Q", 2**40) + b"abc."
    yield "text", b"\x80\2X\xff\xff\xff\xffabc."
    yield "integer", b"\x80\2\x8b" + struct.pack("<i", 2**31 - 1) + b"abc."
    yield "long integer", b"\x80\2\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b"."
    yield "digits", b"L" + b"9" * 10_000 + b"L\n."
    yield "frame", b"\x80\4\x95" + struct.pack("<Q", 2**62) + b"]a."
    yield "extension", b"\x80\2\x82\1."
    yield "out of band", b"\x80\5\x97."
    yield "instructions", b"]" * 60_000 + b"."
    yield "nested tuples", b")" + b"\x85" * 40_000 + b"."
    yield "nested lists", b"]" + b"]" * 10_000 + b"a" * 10_000 + b"."
    yield "nested key", b"}" + b")" + b"\x85" * 40_000 + b"Ns."
    yield "doubling key", b"})" + b"2\x86" * 80 + b"Ns."
    yield "doubling member", b"\x8f()" + b"2\x86" * 80 + b"\x90."
    yield "list as key", b"}]Ns."
    yield "colliding keys", b"}" + integer(2**70) + b"Ns."
    yield "copies", b"(" + b"K\1" * 1000 + b"lq\0cbuiltins\nset\nq\1" + b"h\1h\0\x85R0" * 20_000 + b"."
    yield "array shape", array + b"(K\1" + integers((huge,)) + dtype + b"\x89C\4abcdtb."
    yield "empty array", array + b"(K\1" + integers((0, huge, huge)) + dtype + b"\x89C\0tb."
    yield "object array", array + b"(K\1" + integers((1,)) + dtype.replace(b"f4", b"O8") + b"\x89]Natb."
    yield "scalar", b"cnumpy.core.multiarray\nscalar\n" + dtype + b"C\3abc\x86R."
    yield "state of a tensor", tensor()[:-1] + b"(K\1" + integers((1,)) + dtype + b"\x89C\4abcdtb."
    yield "no stop", b"\x80\2]"
    yield "no mark", b"\x80\2]t."
    yield "underflow", b"\x80\2a."
    yield "nothing", b"\x80\2."
    yield "calls text", b"\x80\2" + text("os.system") + text("a") + b"\x85R."
    yield "odd items", b"}(K\1u."


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
            parts = [value.arguments, value.keywords, value.state, value.items, value.entries]
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
    pickle_stream.OPERATIONS, unpickle.COPIED_BYTES = 50_000, 2**24
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
        if name.startswith(("GLOBAL os", "STACK_GLOBAL os", "INST os", "OBJ os")):
            (tmp_path / "a.pt").write_bytes(as_zip(code))
            record = load(tmp_path / "a.pt")
            assert type(record) is Foreign
            assert record.module == "os"
            assert record.arguments in (("touch sentinel",), ("sentinel",))


def test_a_thousand_damaged_and_hostile_files(tmp_path):
    """In a process of its own, so that a crash, a hang and excessive memory are seen as what they are."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(FILES.parent.parent.parent)}
    worker = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(tmp_path)],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert worker.returncode == 0, worker.stderr[-3000:]
    counts = json.loads(worker.stdout)
    assert sum(counts.values()) >= 1000
    assert min(counts.values()) > 0
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


if __name__ == "__main__":
    print(json.dumps(main(pathlib.Path(sys.argv[1]))))
