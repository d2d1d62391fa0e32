"""Pickles that attack their reader, and the files to put them into."""

import io
import pickle
import struct
import zipfile

import numpy as np

from rqjax.torchfile.legacy import MAGIC_NUMBER, VERSION


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
