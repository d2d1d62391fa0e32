"""Mutants of PyTorch's files: of their pickles, their headers and their descriptions of tensors."""

import io
import pickle
import pickletools
import random
import struct
import zipfile

from rqjax.torchfile.legacy import MAGIC_NUMBER, VERSION
from tests.fuzz import grammar
from tests.fuzz.grammar import noise, text
from tests.fuzz.grown import FILES, Grown, instructions, mutant, saved

SAVED = [saved(file) for file in ("zip.pt", "lightning.ckpt", "storages.pt")]
"""Files that PyTorch wrote, of which readers take all."""
FLOATS = struct.pack("<8f", *range(8))


def archive(code: bytes, records: dict[str, bytes]) -> bytes:
    """A zip file, all of whose checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for part, content in {"data.pkl": code, "byteorder": b"little", **records, "version": b"3\n"}.items():
            opened.writestr(f"archive/{part}", content)
    return file.getvalue()


def _data(grown: Grown) -> dict[str, bytes]:
    return {f"data/{key}": grown.data(key) for key in grown.storages}


def pickle_zip(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.3:
        return archive(grammar.pickle(chance), {"data/0": FLOATS, "data/1": FLOATS})
    if kind < 0.6:
        code, records = chance.choice(SAVED)
        return archive(mutant(code, chance), records)
    grown = Grown(chance).file()
    return archive(mutant(grown.code, chance), _data(grown))


def _legacy(head: list[bytes], code: bytes, keys: bytes, grown: Grown) -> bytes:
    data = (struct.pack("<q", length) + grown.data(key) for key, (_, length) in grown.storages.items())
    return b"".join((*head, code, keys, *data))


HEAD = [pickle.dumps(value, 2) for value in (MAGIC_NUMBER, VERSION, {"little_endian": True})]


def pickle_legacy(chance: random.Random) -> bytes:
    """A pickle of the grammar or a mutant of a valid one, in a file that is whole but for it."""
    if chance.random() < 0.3:
        code = grammar.pickle(chance)
        keys = [key for key in "012" if text(key) in code] if chance.random() < 0.9 else ["0", 1]
        data = b"".join(struct.pack("<q", chance.choice((8, 8, 8, 9, -1, 2**40))) + bytes(32) for _ in keys)
        return b"".join(HEAD) + code + pickle.dumps(keys, 2) + data
    grown = Grown(chance).file()
    return _legacy(HEAD, mutant(grown.code, chance), pickle.dumps(list(grown.storages), 2), grown)


def pickle_bare(chance: random.Random) -> bytes:
    """Pickles that follow one another in the format before the zip files, any of them a mutant; or a pickle alone."""
    kind = chance.random()
    if kind < 0.1:
        return grammar.pickle(chance)
    if kind < 0.2:
        return noise(HEAD[0], chance) + grammar.pickle(chance)
    if kind < 0.5:
        return _saved_legacy(chance)
    grown = Grown(chance).file()
    parts = [*map(instructions, HEAD), grown.code, instructions(pickle.dumps(list(grown.storages), 2))]
    place = chance.randrange(len(parts))
    *head, code, keys = (mutant(part, chance, 2) if i == place else b"".join(part) for i, part in enumerate(parts))
    return _legacy(head, code, keys, grown)


def _saved_legacy(chance: random.Random) -> bytes:
    """A file of PyTorch's own in which one of its five pickles is another."""
    rest, parts = (FILES / chance.choice(("legacy.pt", "lightning_legacy.ckpt"))).read_bytes(), []
    for _ in range(5):
        parts.append(instructions(rest[: _end(rest)]))
        rest = rest[_end(rest) :]
    place = chance.randrange(len(parts))
    return b"".join(mutant(part, chance, 2) if i == place else b"".join(part) for i, part in enumerate(parts)) + rest


def _end(data: bytes) -> int:
    """Where the first pickle ends."""
    return max(place for _, _, place in pickletools.genops(data)) + 1


def zip_headers(chance: random.Random) -> bytes:
    """Fields of the headers of a whole archive, which has a tensor, set to other numbers."""
    names = [f"archive/{part}" for part in ("data.pkl", "data/0", "data/1", "version")]
    words = grammar.storage(random.Random(0)) + b"K\0K\x08\x85K\1\x85\x89NtR."
    code = b"\x80\2" + grammar.named("torch._utils", "_rebuild_tensor_v2") + b"(" + words
    data = bytearray(archive(code, {"data/0": FLOATS, "data/1": FLOATS}))
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = [place for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for place in _all(data, mark)]
        place = chance.choice(places) + 4 + 2 * chance.randrange(24)
        size = chance.choice((1, 2, 4))
        number = chance.choice((0, 1, 8, 2**31, 2**32 - 1, 2**16 - 1, chance.getrandbits(10)))
        data[place : place + size] = number.to_bytes(8, "little")[:size]
    if chance.random() < 0.2:
        old, new = (part.encode() for part in chance.sample(names, 2))
        data = bytearray(bytes(data).replace(old, (new + b"x" * len(old))[: len(old)]))
    return noise(bytes(data), chance) if chance.random() < 0.2 else bytes(data)


def _all(data: bytes | bytearray, mark: bytes) -> list[int]:
    return [place for place in range(len(data)) if data[place : place + 4] == mark]


def tensors(chance: random.Random) -> bytes:
    """An archive of tensors of all types, sizes, strides and offsets, a few of them damaged."""
    grown = Grown(chance, damage=chance.choice((0.0, 0.3, 0.3)))
    grown.code += [b"\x80\2"]
    grown.mapping(1 + chance.randrange(4), grown.tensor)
    code, records = b"".join(grown.code) + b".", _data(grown)
    if chance.random() < 0.15:
        records["byteorder"] = chance.choice((b"big", b"x"))
    if records and chance.random() < 0.15:
        key = chance.choice(list(records))
        records[key] = chance.choice((records[key][:-1], b"", records[key] + b"\0"))
    return archive(code, records)
