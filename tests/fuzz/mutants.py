"""Mutants of every format that may come from a stranger: `FORMATS[name](chance)` is the content of one file."""

import copy
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import yaml
from PIL import Image

from rqjax.run.config import to_dict
from rqjax.torchfile.legacy import MAGIC_NUMBER, VERSION
from tests.configs.tiny import get_config
from tests.official_files import DOCUMENTS

STRANGE = (
    None,
    True,
    "",
    "x",
    "\x1b[2J\u202e",
    -1,
    0,
    1,
    3,
    1.5,
    -0.0,
    2**31,
    2**63,
    10**40,
    1e308,
    [],
    {},
    [None],
    {"x": 1},
)
NAMES = (
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter"),
    *("collections OrderedDict", "collections defaultdict", "torch FloatStorage", "torch HalfStorage", "torch Size"),
    *("builtins set", "builtins frozenset", "builtins complex", "builtins bytearray", "_codecs encode", "torch device"),
    *("numpy dtype", "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct", "torch float32"),
    *("os system", "builtins eval", "builtins getattr", "posix system", "subprocess call", "a.b \x1b[2J"),
)


def _noise(data: bytes, chance: random.Random) -> bytes:
    """The bytes with up to three places changed, moved, repeated or cut off."""
    found = bytearray(data)
    for _ in range(chance.randrange(4)):
        if not found:
            break
        start = chance.randrange(len(found))
        stop = start + chance.choice((1, 1, 2, 4, 8, 64))
        part = bytes(found[start:stop])
        changes = (chance.randbytes(len(part)), part * 2, b"", b"\xff" * len(part), b"\0" * len(part), part[::-1])
        found[start:stop] = chance.choice(changes)
        if chance.random() < 0.05:
            del found[chance.randrange(len(found) + 1) :]
    return bytes(found)


# --- pickles: words of a small grammar, so that most of them keep the stack in order


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(chance: random.Random) -> bytes:
    value = chance.choice((0, 1, 2, 8, 255, 2**31, 2**62, -1, 10**25, chance.getrandbits(40)))
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _name(chance: random.Random) -> bytes:
    module, name = chance.choice(NAMES).split(" ", 1)
    if chance.random() < 0.3:
        return _text(module) + _text(name) + b"\x93"
    return f"c{module}\n{name}\n".encode()


def _storage(chance: random.Random) -> bytes:
    kind = _name(chance) if chance.random() < 0.1 else b"ctorch\nFloatStorage\n"
    length = _number(chance) if chance.random() < 0.2 else b"K\x08"
    return b"(" + _text("storage") + kind + _text(chance.choice("000012")) + _text("cpu") + length + b"tQ"


def _counts(chance: random.Random) -> bytes:
    few = (
        _number(chance) if chance.random() < 0.2 else b"K" + bytes([chance.randrange(9)])
        for _ in range(chance.randrange(4))
    )
    return b"(" + b"".join(few) + b"t"


def _tensor(chance: random.Random) -> bytes:
    parts = [_storage(chance), b"K\0", _counts(chance), _counts(chance), b"\x89", b"N"]
    if chance.random() < 0.2:
        parts[chance.randrange(6)] = _value(chance, 2)
    if chance.random() < 0.2:
        parts.append(_value(chance, 2))
    version = chance.choice(b"23")
    return b"ctorch._utils\n_rebuild_tensor_v%c\n(" % version + b"".join(parts) + b"tR"


def _value(chance: random.Random, depth: int = 5) -> bytes:
    """One word: it leaves one value on the stack."""
    simple = (_number, _name, _tensor, lambda c: _text(c.choice(("a", "\x1b[2J", "weight", "é"))))
    few = (
        *simple,
        lambda c: c.choice((b"N", b"\x88", b"]", b"}", b")", b"\x8f", b"h\0", b"G" + c.randbytes(8), b"C\2ab")),
    )
    if depth == 0 or chance.random() < 0.4:
        return chance.choice(few)(chance)
    inside = [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    pairs = b"".join(_text(f"k{i}") + value for i, value in enumerate(inside))
    mixed = b"".join(_value(chance, 0) + value for value in inside)
    calls = _name(chance) + b"(" + b"".join(inside) + b"t" + chance.choice((b"R", b"R", b"\x81", b"R}b", b"R(K\1tb"))
    forms = (
        *(b"(" + b"".join(inside) + end for end in (b"t", b"l", b"\x91")),
        *(
            b"}(" + pairs + b"u",
            b"}(" + mixed + b"u",
            b"](" + b"".join(inside) + b"e",
            b"\x8f(" + b"".join(inside) + b"\x90",
        ),
        *(calls, calls, _value(chance, depth - 1) + b"q\0"),
    )
    return chance.choice(forms)


def _pickle(chance: random.Random) -> bytes:
    code = b"\x80\4Nq\0" + chance.choice((b"", b"0")) + _value(chance)
    return (_noise(code, chance) if chance.random() < 0.3 else code) + b"."


def _archive(code: bytes, data: bytes = struct.pack("<8f", *range(8)), order: str = "little") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("data.pkl", code),
            ("byteorder", order),
            ("data/0", data),
            ("data/1", data),
            ("version", "3\n"),
        ):
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def pickle_zip(chance: random.Random) -> bytes:
    return _archive(_pickle(chance))


def pickle_legacy(chance: random.Random) -> bytes:
    code = _pickle(chance)
    keys = [key for key in "012" if _text(key) in code] if chance.random() < 0.9 else ["0", 1]
    data = b"".join(struct.pack("<q", chance.choice((8, 8, 8, 9, -1, 2**40))) + bytes(32) for _ in keys)
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC_NUMBER, VERSION, {}))
    return head + code + pickle.dumps(keys, 2) + data


def pickle_bare(chance: random.Random) -> bytes:
    return _pickle(chance) if chance.random() < 0.5 else _noise(pickle.dumps(MAGIC_NUMBER, 2), chance) + _pickle(chance)


def zip_headers(chance: random.Random) -> bytes:
    """Fields of the headers of a whole archive, which has a tensor, set to other numbers."""
    names = [f"archive/{name}" for name in ("data.pkl", "data/0", "data/1", "version")]
    data = bytearray(
        _archive(
            b"\x80\2"
            + b"ctorch._utils\n_rebuild_tensor_v2\n("
            + _storage(random.Random(0))
            + b"K\0K\x08\x85K\1\x85\x89NtR."
        )
    )
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = [place for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for place in _all(data, mark)]
        place = chance.choice(places) + 4 + 2 * chance.randrange(24)
        size = chance.choice((1, 2, 4))
        number = chance.choice((0, 1, 8, 2**31, 2**32 - 1, 2**16 - 1, chance.getrandbits(10)))
        data[place : place + size] = number.to_bytes(8, "little")[:size]
    if chance.random() < 0.2:
        old, new = (name.encode() for name in chance.sample(names, 2))
        data = bytearray(bytes(data).replace(old, (new + b"x" * len(old))[: len(old)]))
    return _noise(bytes(data), chance) if chance.random() < 0.2 else bytes(data)


def _all(data: bytes | bytearray, mark: bytes) -> list[int]:
    return [place for place in range(len(data)) if data[place : place + 4] == mark]


def tensors(chance: random.Random) -> bytes:
    """An archive of a dictionary of tensors of all kinds of sizes, strides and offsets."""
    pairs = b"".join(_text(f"k{i}") + _tensor(chance) for i in range(1 + chance.randrange(4)))
    order = chance.choice(("little", "little", "big", "x"))
    return _archive(b"\x80\2Nq\0" + b"0}(" + pairs + b"u.", chance.randbytes(chance.choice((32, 32, 32, 31, 0))), order)


# --- documents


def safetensors(chance: random.Random) -> bytes:
    header: dict[str, object] = {}
    position = 0
    for i in range(chance.randrange(5)):
        shape, kind = (
            [chance.randrange(4) for _ in range(chance.randrange(4))],
            chance.choice(("F32", "BF16", "U8", "F4")),
        )
        stop = position + int(np.prod(shape)) * {"F32": 4, "BF16": 2}.get(kind, 1)
        header[chance.choice((f"k{i}", "k0", "\x1b[2J"))] = {
            "dtype": kind,
            "shape": shape,
            "data_offsets": [position, stop],
        }
        position = stop
    if chance.random() < 0.2:
        header["__metadata__"] = chance.choice(({"a": "b"}, {"a": 1}, []))
    text = json.dumps(_changed(header, chance) if chance.random() < 0.5 else header).encode()
    text = _noise(text, chance) if chance.random() < 0.4 else text + b" " * (-len(text) % 8)
    length = chance.choice((len(text),) * 8 + (0, 2**63, len(text) + 1, len(text) - 1))
    return (length % 2**64).to_bytes(8, "little") + text + bytes(position + chance.choice((0, 0, 0, 0, 1)))


def _changed(document: object, chance: random.Random, most: int = 3) -> object:
    """A copy with some values strange, some keys renamed, repeated or gone."""
    changed = json.loads(json.dumps(document))
    for _ in range(1 + chance.randrange(most)):
        place = changed
        while isinstance(place, (dict, list)) and place:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or chance.random() < 0.15:
                _change(place, key, chance)
                break
            place = place[key]
    return changed


def _change(place, key, chance: random.Random) -> None:
    kind = chance.random()
    if kind < 0.75 or isinstance(place, list):
        place[key] = copy.deepcopy(chance.choice(STRANGE))
    elif kind < 0.9:
        place[chance.choice(("x", "target", "type", "params", "\x1b[2J"))] = place.pop(key)
    else:
        del place[key]


def yaml_document(chance: random.Random) -> bytes:
    family = chance.choice(list(DOCUMENTS))
    text = yaml.safe_dump(_changed(DOCUMENTS[family], chance), default_flow_style=chance.random() < 0.2)
    if chance.random() < 0.3:
        lines = text.splitlines()
        extra = (
            "a: &a {b: *a}",
            "<<: {x: 1}",
            "? [a]",
            "x: !!python/object/apply:os.system [ls]",
            "y: 1:59:59",
            "\t",
            "!!bool x",
            "- 1",
        )
        lines.insert(chance.randrange(len(lines) + 1), " " * chance.choice((0, 2, 4)) + chance.choice(extra))
        text = "\n".join(lines)
    return _noise(text.encode(), chance) if chance.random() < 0.3 else text.encode()


_CONFIGS = {
    name: to_dict(get_config(name)) for name in ("rqvae", "rqtransformer", "dqvae", "dqtransformer", "classifier")
}


def config_json(chance: random.Random) -> bytes:
    text = json.dumps(_changed(_CONFIGS[chance.choice(list(_CONFIGS))], chance)).encode()
    return _noise(text, chance) if chance.random() < 0.2 else text


# --- images


def _images() -> list[bytes]:
    ramp = np.arange(24 * 20 * 4).reshape(24, 20, 4).astype(np.uint8)
    found = []
    kinds = "png RGB,png P,png RGBA,png 1,jpeg RGB,jpeg CMYK,webp RGBA,bmp RGB,bmp 1,gif P,tiff RGB,eps RGB"
    for kind, mode in (pair.split() for pair in kinds.split(",")):
        file = io.BytesIO()
        image = Image.fromarray(ramp if mode in ("RGBA", "CMYK") else ramp[..., :3], "CMYK" if mode == "CMYK" else None)
        image.convert(mode).save(file, kind)
        found.append(file.getvalue())
    return found


_IMAGES = _images()


def image(chance: random.Random) -> bytes:
    """An image with noise, half of the time in its first bytes, which tell its size and its kind."""
    data = bytearray(chance.choice(_IMAGES))
    for _ in range(chance.randrange(3)):
        place, size = chance.randrange(min(len(data), 64)), chance.choice((1, 2, 4))
        data[place : place + size] = chance.choice((0, 1, 255, 2**16, 2**31 - 1, 10**6)).to_bytes(
            4, chance.choice(("big", "little"))
        )[-size:]
    return _noise(bytes(data), chance)


FORMATS: dict[str, Callable[[random.Random], bytes]] = {
    **{"pickle_zip": pickle_zip, "pickle_legacy": pickle_legacy, "pickle_bare": pickle_bare, "zip": zip_headers},
    **{"tensors": tensors, "safetensors": safetensors, "yaml": yaml_document, "config": config_json, "image": image},
}
