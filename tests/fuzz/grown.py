"""Valid pickles of PyTorch's as lists of instructions, grown at random or saved by PyTorch, and mutants of them."""

import collections
import itertools
import math
import pathlib
import pickletools
import random
import zipfile

from rqjax.store.dtypes import DTYPES, STORAGES
from tests.fuzz.grammar import bomb, name, named, noise, number, text, value, whole

FILES = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"
STRANGE_COUNTS = (-1, -8, 0, 1, 3, 2**31, 2**40, 2**62, 2**63, 10**30)
FIELDS = ("key", "kind", "length", "offset", "shape", "strides")


class Grown:
    """A pickle that grows word by word: its instructions, and the type and the length of each storage."""

    def __init__(self, chance: random.Random, damage: float = 0.0):
        self.chance, self.damage = chance, damage
        self.code: list[bytes] = []
        self.storages: dict[str, tuple[str, int]] = {}

    def data(self, key: str) -> bytes:
        kind, length = self.storages[key]
        return self.chance.randbytes(length * STORAGES[kind].itemsize)

    def file(self) -> "Grown":
        """The shapes that checkpoints have: tensors by name, a trainer's state, a list, a tensor alone."""
        self.code += [b"\x80\2"]
        shapes = (
            *(lambda: self.mapping(3, self.tensor), lambda: self.value(3), self.tensor),
            lambda: self.members(b"](", b"e", 3, self.tensor),
            lambda: self.mapping(0, names={"state_dict": lambda: self.mapping(3, self.tensor), "epoch": self.simple}),
            lambda: self.mapping(2, names={"state_dict": self.tensors, "hyper_parameters": lambda: self.object(2)}),
        )
        self.chance.choice(shapes)()
        self.code += [b"."]
        return self

    def tensors(self) -> None:
        self.mapping(4, self.tensor)

    def value(self, depth: int) -> None:
        """Any value of those that checkpoints hold."""
        inner = lambda: self.value(depth - 1)  # noqa: E731
        simple, nested = (self.simple, self.simple, self.tensor), (self.mapping, self.sequence, self.object)
        if depth == 0 or self.chance.random() < 0.3:
            self.chance.choice(simple)()
        else:
            self.chance.choice(nested)(depth, inner)

    def simple(self) -> None:
        chance = self.chance
        words = (
            *([b"N"], [b"\x88"], [b"\x89"], [whole(chance.getrandbits(chance.choice((1, 8, 31, 62))))], [b"]"], [b")"]),
            [text(chance.choice(("adam", "x" * 100, "\N{GREEK SMALL LETTER ALPHA}", "")))],
            [b"G" + chance.randbytes(8)],
            [named("torch", chance.choice(list(DTYPES)))],
            [named("torch", "device"), text("cuda"), whole(3), b"\x86", b"R"],
            [named("torch", "Size"), b"(", whole(2), whole(5), b"t", b"\x85", b"R"],
            [named("_codecs", "encode"), text("\N{LATIN SMALL LETTER E WITH ACUTE}a"), text("latin1"), b"\x86", b"R"],
        )
        self.code += chance.choice(words)

    def sequence(self, depth: int, inner=None) -> None:
        begin, end = self.chance.choice(((b"(", b"t"), (b"](", b"e")))
        self.members(begin, end, self.chance.randrange(4), inner or self.simple)

    def members(self, begin: bytes, end: bytes, count: int, inner) -> None:
        self.code += [bytes([byte]) for byte in begin]
        for _ in range(count):
            inner()
        self.code += [end]

    def mapping(self, count: int, inner=None, names=()) -> None:
        """A dictionary, or an ordered one; its members have the given names, or numbers of their own."""
        ordered = [named("collections", "OrderedDict"), b")", b"R"]
        self.code += [*self.chance.choice(([b"}"], ordered)), b"("]
        for i in range(count):
            self.code += [text(f"layer.{i}.weight")]
            (inner or self.simple)()
        for key, fill in dict(names).items():
            self.code += [text(key)]
            fill()
        self.code += [b"u"]

    def object(self, depth: int, inner=None) -> None:
        """An object of a class that nobody here has."""
        self.code += [named("trainer.options", "Options"), b")", self.chance.choice((b"R", b"\x81"))]
        self.mapping(depth, inner)
        self.code += [b"b"]

    def tensor(self) -> None:
        """A tensor of any type, sizes, strides and offset within its storage, or one whose description is damaged."""
        chance, fields = self.chance, self._fields()
        if chance.random() < self.damage:
            self._damage(fields)
        dtype = fields["dtype"]
        words = [named("torch._utils", f"_rebuild_tensor_v{3 if dtype else 2}"), b"(", b"(", text("storage")]
        words += [named("torch", str(fields["kind"])), text(str(fields["key"])), text("cpu"), whole(fields["length"])]
        words += [b"t", b"Q", whole(fields["offset"])]
        for numbers in (fields["shape"], fields["strides"]):
            words += [b"(", *map(whole, numbers), b"t"]
        words += [b"\x89", named("collections", "OrderedDict"), b")", b"R"]
        words += ([named("torch", dtype)] if dtype else []) + [b"t", b"R"]
        wrapped = [named("torch._utils", "_rebuild_parameter"), *words, b"\x88", b"N", b"\x87", b"R"]
        self.code += wrapped if chance.random() < 0.2 else words

    def _fields(self) -> dict:
        chance = self.chance
        shape = [chance.choice((0, 1, 2, 3, 5)) for _ in range(chance.randrange(5))]
        strides = [math.prod(max(length, 1) for length in shape[axis + 1 :]) for axis in range(len(shape))]
        if chance.random() < 0.3:  # transposed or expanded
            strides = chance.sample(strides, len(strides)) if chance.random() < 0.5 else [0] * len(strides)
        offset = chance.choice((0, 0, 1, 7))
        elements = offset + 1 + sum((max(n, 1) - 1) * step for n, step in zip(shape, strides, strict=True))
        elements += chance.choice((0, 0, 4))
        typed = chance.random() < 0.8
        kind = chance.choice(list(STORAGES)) if typed else "UntypedStorage"
        dtype = None if typed else chance.choice(list(DTYPES))
        fitting = [key for key, (old, length) in self.storages.items() if typed and old == kind and length >= elements]
        key = chance.choice(fitting) if fitting else str(len(self.storages))
        length = elements if dtype is None else elements * DTYPES[dtype].itemsize
        length = self.storages.setdefault(key, (kind, length))[1]
        found = {"key": key, "kind": kind, "length": length, "offset": offset, "shape": shape, "strides": strides}
        return found | {"dtype": dtype}

    def _damage(self, fields: dict) -> None:
        """One field says something else."""
        chance, field = self.chance, self.chance.choice(FIELDS)
        if field in ("shape", "strides"):
            place = chance.randrange(len(fields[field]) + 1)
            fields[field][place : place + chance.randrange(2)] = chance.choices(STRANGE_COUNTS, k=chance.randrange(3))
        elif field == "key":
            fields[field] = chance.choice(("0", "1", "9", "../0", "\x1b[2J"))
        elif field == "kind":
            fields[field] = chance.choice((*STORAGES, "QInt8Storage", "x"))
        else:
            fields[field] = chance.choice((fields[field] + chance.choice((-1, 1, 8)), chance.choice(STRANGE_COUNTS)))


def instructions(code: bytes) -> list[bytes]:
    """A pickle cut into its instructions."""
    places = [place for _, _, place in pickletools.genops(code)] + [len(code)]
    return [code[start:stop] for start, stop in itertools.pairwise(places)]


def saved(file: str) -> tuple[list[bytes], dict[str, bytes]]:
    """The instructions of a zip file of PyTorch's own, and its other records."""
    with zipfile.ZipFile(FILES / file) as archive:
        records = {entry.split("/", 1)[1]: archive.read(entry) for entry in archive.namelist()}
    return instructions(records.pop("data.pkl")), records


def mutant(code: list[bytes], chance: random.Random, most: int = 3) -> bytes:
    """The pickle with a few instructions changed, each in one of the ways that keep most of the others in order."""
    changed = list(code)
    for _ in range(1 + chance.randrange(most)):
        place = chance.randrange(len(changed))
        changed[place : place + 1] = _changed(changed[place], chance, changed)
    return b"".join(changed)


def _changed(old: bytes, chance: random.Random, code: list[bytes]) -> list[bytes]:
    """In place of an instruction: another of its kind, more often than any other thing."""
    if chance.random() < 0.6:
        alike = collections.defaultdict(list)
        for word in code:
            alike[word[:1]].append(word)
        other = {
            **dict.fromkeys((b"K", b"M", b"J", b"\x8a"), number),
            **dict.fromkeys((b"X", b"U"), lambda c: text(c.choice(("a", "\x1b[2J", "weight", "1", "")))),
            **dict.fromkeys((b"N", b"\x88", b"\x89", b"]", b"}", b")"), lambda c: value(c, 1)),
            b"c": name,
        }
        found = chance.choice(alike[old[:1]])
        return [other[old[:1]](chance) if old[:1] in other and chance.random() < 0.5 else found]
    ways = (
        [],
        [old, old],
        [noise(old, chance)],
        [bomb(chance), b"0", old],
        [old, value(chance, 2), b"0"],
        [value(chance, 2)],
    )
    return chance.choice(ways)
