"""Small files that would take years, gigabytes, or an error that is not one line: each costs little and is refused."""

import itertools
import json
import pathlib
import resource
import struct
import subprocess
import sys
import time

from rqjax.errors import InputError
from rqjax.torchfile.file import load
from rqjax.torchfile.foreign import Foreign
from tests.torchfile.hostile_pickles import as_legacy, as_legacy_keys, as_zip, integer, tensor, text

SECONDS = 4
"""The most processor time that a file may take; on a machine of its own it is a quarter."""
MEMORY = 200 * 2**20
ARRAY = tensor()[2:-1]
DOUBLED = b"K\1" + b"q\0h\0\x86" * 80
STORAGE = ARRAY[ARRAY.index(b"((") + 1 : ARRAY.index(b"tQ") + 2]


def rebuilt(more: bytes, version: int = 2) -> bytes:
    """A call that makes a tensor, its last arguments given."""
    return (
        b"\x80\2ctorch._utils\n_rebuild_tensor_v%d\n(" % version + STORAGE + b"K\0K\x08\x85K\1\x85\x89N" + more + b"tR."
    )


def frozensets(member: bytes, length: int, begin: bytes, end: bytes) -> bytes:
    """A set of two equal chains of frozensets, each of the one before and of `member`; h? stands for the one before."""
    code = b"\x80\4"
    for slot in (b"\0", b"\1"):
        link = begin + b"h" + slot + member.replace(b"?", slot) + end + b"q" + slot + b"0"
        code += begin + b"K\1" + end + b"q" + slot + b"0" + link * length
    return code + begin + b"h\0h\1" + end + b"."


def keys(key, count: int = 100_000) -> bytes:
    return b"\x80\2}(" + b"".join(key(number) + b"N" for number in range(1, count + 1)) + b"u."


def double(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def imaginary(number: int) -> bytes:
    """hash(a + bj) is hash(a) + 1000003 hash(b)."""
    return b"cbuiltins\ncomplex\n" + double(1e12 - 1000003.0 * number) + double(number) + b"\x86R"


def nested_calls(depth: int) -> bytes:
    code = b"\x80\2ctorch._tensor\n_rebuild_from_type\nq\0h\0)q\1"
    return code + b"0(h\0Nh\1Ntq\1" * depth + b"R."


def bombs():
    """(name, pickle): those that attacked readers before, and their relatives."""
    state = b"(K\1)cnumpy\ndtype\n" + ARRAY + b"\x85R\x89C\0tb."
    long = text("a" * 2**23)
    for form in ((b"(", b"\x91"), (b"cbuiltins\nfrozenset\n](", b"e\x85R")):
        yield "frozensets that 2**40 comparisons find equal", frozensets(b"h?\x85", 40, *form)
        yield "frozensets in frozensets", frozensets(b"K\7", 5000, *form)
    yield "complex keys of one hash", keys(imaginary)
    yield "complex keys of one hash, few", keys(imaginary, 5000)
    yield "tuples as keys", keys(lambda number: integer(number) + integer(-number) + b"\x86")
    yield "integers of one hash", keys(lambda number: integer(number * (2**61 - 1)))
    yield "integers", keys(integer)
    yield "an array as metadata", rebuilt(ARRAY)
    yield "an array as a bit of metadata", rebuilt(b"}" + text("conj") + ARRAY + b"s")
    yield "an array as a type", rebuilt(ARRAY, 3)
    yield "an array in a persistent id", b"\x80\2" + STORAGE.replace(text("storage"), ARRAY) + b"."
    yield "an array as an encoding", b"\x80\2c_codecs\nencode\n" + text("abc") + ARRAY + b"\x86R."
    yield "an array as keywords", b"\x80\4ccollections\nOrderedDict\n)" + ARRAY + b"\x92."
    yield "an array as the type of an array", b"\x80\2cnumpy.core.multiarray\n_reconstruct\n(NNNtR" + state
    yield "empty sets", b"\x80\4(" + b"\x8f" * 1_200_000 + b"t."
    yield "empty lists", b"\x80\2(" + b"]" * 1_200_000 + b"t."
    yield "foreign objects", b"\x80\2ca\nb\nq\0(" + b"h\0)R" * 900_000 + b"t."
    yield "tensors", b"\x80\2(" + (ARRAY[:-1] + b"q\0" + ARRAY[: ARRAY.index(b"((")] + b"h\0R") * 30_000 + b"t."
    yield "text of four bytes for each letter", b"\x80\2" + text("\N{GRINNING FACE}" + "a" * 60_000_000) + b"."
    yield "long keys", b"\x80\2" + long + b"q\0" + long + b"q\1}h\0Ns" + b"h\1Ns" * 100_000 + b"."
    yield "long names", b"\x80\4" + long + b"q\0" + b"h\0h\0\x930" * 100_000 + b"."
    yield "long arguments", b"\x80\2(" + b"N" * 400_000 + b"tq\0ca\nb\nq\1" + b"h\1h\0R0" * 100_000 + b"."
    yield "a tuple whose hash takes 2**80 steps as a type", rebuilt(DOUBLED, 3)
    yield "a tuple whose text takes 2**80 steps as a device", b"\x80\2ctorch\ndevice\n" + DOUBLED + b"K\0\x86R."
    yield (
        "a list in a list, often",
        (b"\x80\2(" + b"](" + b"N" * 300_000 + b"e" + b"q\0" + b"h\0" * 300_000 + b"t" + b"\x85" * 100 + b"."),
    )
    yield "items set one by one", b"\x80\2(" + b"N" * 300_000 + b"}q\0" + b"K\1Ns" * 100_000
    yield "calls of calls", nested_calls(50_000)


def attempt(path: pathlib.Path) -> None:
    """Asserts that `path` is refused in one printable line, in little time and memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        load(path)
        message = "was loaded"
    except InputError as error:
        message = str(error)
    seconds = time.process_time() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert message.startswith(f"{path}: "), message
    assert message.isprintable()
    assert len(message) < 600
    assert seconds < SECONDS, (path, seconds)
    assert memory < MEMORY + path.stat().st_size, (path, memory)


def main(folder: pathlib.Path) -> int:
    count, path = 0, folder / "bomb.pt"
    for (_, code), build in itertools.product(bombs(), (as_zip, as_legacy)):
        path.write_bytes(build(code))
        attempt(path)
        count += 1
    path.write_bytes(as_legacy_keys(b"\x80\2](" + DOUBLED + b"e."))  # harmless where nothing hashes it
    attempt(path)
    return count + 1


def test_bombs_are_refused_soon(tmp_path):
    """In a process of its own, since a comparison that never ends cannot be interrupted."""
    worker = subprocess.run(
        [sys.executable, "-m", "tests.torchfile.test_bombs", str(tmp_path)],
        capture_output=True, text=True, timeout=240, check=False, cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert worker.returncode == 0, worker.stderr[-3000:]
    assert json.loads(worker.stdout) == 59


def test_names_are_printed_without_control_characters(tmp_path):
    hostile = "\x1b]0;owned\x07\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}"
    for kind in ("Storage", "dtype"):
        named = f"ctorch\n{hostile}{kind}\n".encode()
        code = {
            "Storage": b"\x80\2(" + text("storage") + named + text("0") + text("cpu") + b"K\x08tQ.",
            "dtype": rebuilt(named, 3),
        }[kind]
        for build in (as_zip, as_legacy):
            (tmp_path / "a.pt").write_bytes(build(code))
            attempt(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(as_zip(b"\x80\4" + text("a\n") + text(hostile) + b"\x93."))
    record = load(tmp_path / "a.pt")
    assert (type(record), record.name) == (Foreign, hostile)
    assert repr(record).isprintable()


if __name__ == "__main__":
    print(main(pathlib.Path(sys.argv[1])))
