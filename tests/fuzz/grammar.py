"""Words of a small grammar of pickles, of which most keep the stack in order, and noise in their bytes."""

import random
import struct

NAMES = (
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter"),
    *("collections OrderedDict", "collections defaultdict", "torch FloatStorage", "torch HalfStorage", "torch Size"),
    *("builtins set", "builtins frozenset", "builtins complex", "builtins bytearray", "_codecs encode", "torch device"),
    *("numpy dtype", "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct", "torch float32"),
    *("os system", "builtins eval", "builtins getattr", "posix system", "subprocess call", "a.b \x1b[2J"),
)


def noise(data: bytes, chance: random.Random) -> bytes:
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


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(chance: random.Random) -> bytes:
    return whole(chance.choice((0, 1, 2, 8, 255, 2**31, 2**62, -1, 10**25, chance.getrandbits(40))))


def whole(number: int) -> bytes:
    if 0 <= number < 256:
        return b"K" + bytes([number])
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(chance: random.Random) -> bytes:
    module, part = chance.choice(NAMES).split(" ", 1)
    return text(module) + text(part) + b"\x93" if chance.random() < 0.3 else named(module, part)


def named(module: str, part: str) -> bytes:
    return f"c{module}\n{part}\n".encode()


def storage(chance: random.Random) -> bytes:
    kind = name(chance) if chance.random() < 0.1 else b"ctorch\nFloatStorage\n"
    length = number(chance) if chance.random() < 0.2 else b"K\x08"
    return b"(" + text("storage") + kind + text(chance.choice("000012")) + text("cpu") + length + b"tQ"


def counts(chance: random.Random) -> bytes:
    few = (
        number(chance) if chance.random() < 0.2 else b"K" + bytes([chance.randrange(9)])
        for _ in range(chance.randrange(4))
    )
    return b"(" + b"".join(few) + b"t"


def tensor(chance: random.Random) -> bytes:
    parts = [storage(chance), b"K\0", counts(chance), counts(chance), b"\x89", b"N"]
    if chance.random() < 0.2:
        parts[chance.randrange(6)] = value(chance, 2)
    if chance.random() < 0.2:
        parts.append(value(chance, 2))
    version = chance.choice(b"23")
    return b"ctorch._utils\n_rebuild_tensor_v%c\n(" % version + b"".join(parts) + b"tR"


def value(chance: random.Random, depth: int = 5) -> bytes:
    """One word: it leaves one value on the stack."""
    simple = (number, name, tensor, lambda c: text(c.choice(("a", "\x1b[2J", "weight", "é"))))
    few = (
        *simple,
        lambda c: c.choice((b"N", b"\x88", b"]", b"}", b")", b"\x8f", b"h\0", b"G" + c.randbytes(8), b"C\2ab")),
    )
    if depth == 0 or chance.random() < 0.4:
        return chance.choice(few)(chance)
    inside = [value(chance, depth - 1) for _ in range(chance.randrange(4))]
    pairs = b"".join(text(f"k{i}") + part for i, part in enumerate(inside))
    mixed = b"".join(value(chance, 0) + part for part in inside)
    calls = name(chance) + b"(" + b"".join(inside) + b"t" + chance.choice((b"R", b"R", b"\x81", b"R}b", b"R(K\1tb"))
    forms = (
        *(b"(" + b"".join(inside) + end for end in (b"t", b"l", b"\x91")),
        *(
            b"}(" + pairs + b"u",
            b"}(" + mixed + b"u",
            b"](" + b"".join(inside) + b"e",
            b"\x8f(" + b"".join(inside) + b"\x90",
        ),
        *(calls, calls, value(chance, depth - 1) + b"q\0"),
    )
    return chance.choice(forms)


def pickle(chance: random.Random) -> bytes:
    code = b"\x80\4Nq\0" + chance.choice((b"", b"0")) + value(chance)
    return (noise(code, chance) if chance.random() < 0.3 else code) + b"."


def bomb(chance: random.Random) -> bytes:
    """One word that costs a careless reader years or gigabytes; its size is any up to a few thousand."""
    size = int(2 ** chance.uniform(1, 12))
    complexes = (
        named("builtins", "complex") + _double(1e12 - 1000003.0 * i) + _double(i) + b"\x86R" for i in range(size)
    )
    alike = b"".join(
        chance.choice((whole(i * (2**61 - 1)), whole(i) + whole(-i) + b"\x86")) + b"N" for i in range(size)
    )
    member = named("builtins", "frozenset") + b"](" + chance.choice((b"h\0h\0\x85", b"h\0", b"K\7")) + b"e\x85Rq\0"
    array = tensor(random.Random(0))
    forms = (
        *(b"}(" + b"".join(part + b"N" for part in complexes) + b"u", b"}(" + alike + b"u"),  # keys of one hash
        b"K\1q\x000" + (member + b"0") * size + member,  # sets whose comparison doubles with each
        b")" + b"\x85" * size,  # deep recursion
        b"]q\0" + b"(h\0h\0lq\x000" * min(size, 300) + b"h\0",  # each list has the one before twice
        b"Nr" + struct.pack("<I", chance.getrandbits(32)),  # a place of the memo that is far away
        b"K\1" + b"2\x86" * size,
        named("torch._utils", "_rebuild_tensor_v2") + b"(" + array + b"K\0))\x89N" + array + b"tR",
        named("_codecs", "encode") + text("abc") + array + b"\x86R",
        b"(" + text("storage") + array + text("0") + text("cpu") + b"K\x08tQ",
        b"}" + text("conj") + array + b"s",
        b"X" + struct.pack("<I", chance.getrandbits(32)),
    )
    return chance.choice(forms)


def _double(number: float) -> bytes:
    return b"G" + struct.pack(">d", number)
