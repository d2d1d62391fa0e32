"""Collectives and memory traffic of a compiled program, read from its text with loops multiplied out."""

import dataclasses
import math
import re
from collections import defaultdict

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
"""Of one element; four for the types that are not here. Those of f8 and below do not occur."""
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call", "after-all")
"""Instructions that move nothing themselves."""

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\](\{[^}]*\})?")
_ON_CHIP = "S(1)"  # in a layout: the vector memory
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: str
    inside: str  # what stands between the parentheses
    rest: str  # what follows them
    root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.inside)

    @property
    def sizes(self) -> list[int]:
        """Bytes of each array of the result."""
        found = _SHAPE.findall(self.shape)
        return [BYTES.get(kind, 4) * math.prod(int(n) for n in shape.split(",") if n) for kind, shape, _ in found]

    @property
    def stored(self) -> list[int]:
        """The same with 0 for what the compiler keeps on the chip."""
        layouts = [layout for _, _, layout in _SHAPE.findall(self.shape)]
        return [0 if _ON_CHIP in layout else size for layout, size in zip(layouts, self.sizes, strict=True)]


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled module."""

    computations: dict[str, Computation]
    times: dict[str, int]  # how often one call runs each computation


def parse(text: str) -> Program:
    """The module of this text, its loops multiplied out."""
    computations, entry = _computations(text)
    return Program(computations, _executed(computations, entry))


def _computations(text: str) -> tuple[dict[str, Computation], str]:
    """The computations by name, and which of them is the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[1], {})
            entry = header[1] if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)) and (opcode := _OPCODE.search(found[3])):
            root, name, text = found.groups()
            inside, _, rest = text[opcode.end() :].partition(")")
            current[name] = Instruction(name, opcode[1], text[: opcode.start(1)], inside, rest, root is not None)
    return computations, entry


def _executed(computations: dict[str, Computation], entry: str) -> dict[str, int]:
    """How often each computation runs in one call; those inside fusions are left out.

    A loop that may end early counts to its end, one whose condition compares with no constant once, and a conditional
    as if it took every branch.
    """
    times: dict[str, int] = defaultdict(int)

    def visit(name: str, n: int) -> None:
        times[name] += n
        for instruction in computations[name].values():
            factor = _iterations(instruction, computations)
            for called in _calls(instruction):
                if called in computations:
                    visit(called, n * factor)

    visit(entry, 1)
    return dict(times)


def _calls(instruction: Instruction) -> list[str]:
    if instruction.opcode in ("fusion", "reduce", "all-reduce", "reduce-scatter", "scatter", "sort", "reduce-window"):
        return []
    branches = ",".join(_BRANCHES.findall(instruction.rest)).split(",")
    return _CALLED.findall(instruction.rest) + [name.strip().lstrip("%") for name in branches if name]


def _iterations(instruction: Instruction, computations: dict[str, Computation]) -> int:
    """Of a loop that says so, or that counts from 0 to a constant in its condition, as a scan's does; else 1.

    It may end earlier for another reason. Of several constants the least counts.
    """
    if instruction.opcode != "while":
        return 1
    if trips := _TRIPS.search(instruction.rest):
        return int(trips[1])
    condition = _CONDITION.search(instruction.rest)
    inside = computations.get(condition[1], {}) if condition else {}
    compares = (x for x in inside.values() if x.opcode == "compare" and "direction=LT" in x.rest)
    found = (inside[name] for compare in compares for name in compare.operands if name in inside)
    return min((int(x.inside) for x in found if x.opcode == "constant" and x.inside.isdigit()), default=1)


def collectives(program: Program) -> dict[str, dict[str, int]]:
    """The collectives of one call by kind: their count, and the bytes that a device gives or gets, whichever is more.

    What stands inside a fusion with its consumer counts as well.
    """
    found = {kind: {"count": 0, "bytes": 0} for kind in COLLECTIVES}
    for name, n in (program.times | _fused(program)).items():
        computation = program.computations[name]
        for instruction in computation.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in found:
                operands = (computation.get(operand) for operand in instruction.operands)
                given = sum(sum(operand.sizes) for operand in operands if operand)
                found[kind]["count"] += n
                found[kind]["bytes"] += n * max([given, *instruction.sizes])
    return {kind: figures for kind, figures in found.items() if figures["count"]}


def _fused(program: Program) -> dict[str, int]:
    """How often the computations inside fusions run."""
    found: dict[str, int] = defaultdict(int)
    for name, n in program.times.items():
        for instruction in program.computations[name].values():
            if instruction.opcode == "fusion":
                for called in _CALLED.findall(instruction.rest):
                    found[called] += n
    return dict(found)


def traffic(program: Program) -> int:
    """Bytes that one call reads from and writes to memory: operands and results of all that is not inside a fusion.

    Of an operand that a fusion only takes slices of, the slices count; of a result that is another array with a slice
    replaced, the slice. What the compiler keeps on the chip between two instructions costs nothing, but its copies do.
    """
    total = 0
    for name, n in program.times.items():
        computation = program.computations[name]
        for instruction in computation.values():
            if instruction.opcode not in FREE and not instruction.opcode.endswith("-done"):
                total += n * _moved(instruction, computation, program.computations)
    return total


def _moved(instruction: Instruction, computation: Computation, computations: dict[str, Computation]) -> int:
    result = sum(instruction.stored)
    operands = [sum(computation[name].stored) for name in instruction.operands if name in computation]
    if instruction.opcode == "copy-start":
        return sum(instruction.stored[:2])  # (to, from, a flag)
    if instruction.opcode == "slice-start":
        return instruction.sizes[1] + instruction.stored[1]  # ((from), to, a flag)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * result
    if instruction.opcode == "dynamic-update-slice":
        return 2 * (operands[1] if len(operands) > 1 else result)
    called = _CALLED.search(instruction.rest) if instruction.opcode == "fusion" else None
    if called is None or called[1] not in computations:
        return result + sum(operands)
    fused = computations[called[1]]
    return _written(fused, result) + sum(_read(fused, i, size, computations) for i, size in enumerate(operands))


def _read(fused: Computation, index: int, whole: int, computations: dict[str, Computation]) -> int:
    """Bytes read of a fusion's operand, which a fusion inside it may take slices of."""
    names = {x.name for x in fused.values() if x.opcode == "parameter" and x.inside == str(index)}
    read = 0
    for user in fused.values():
        if not names & set(user.operands):
            continue
        if _only_moves(user, computations):
            names.add(user.name)  # the same array, which nothing makes whole in here; its users stand behind it
        elif user.opcode in ("dynamic-slice", "slice", "gather"):
            read += sum(user.sizes)
        elif user.opcode == "fusion" and (called := _CALLED.search(user.rest)) and called[1] in computations:
            inside = computations[called[1]]
            places = [i for i, name in enumerate(user.operands) if name in names]
            read += sum(_read(inside, i, whole, computations) for i in places)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] not in names:  # else what is written into
            return whole
    return min(whole, read)


def _only_moves(x: Instruction, computations: dict[str, Computation]) -> bool:
    """Whether an instruction inside a fusion gives its operand in another layout, as of int8 before it is sliced."""
    called = _CALLED.search(x.rest) if x.opcode == "fusion" else None
    inside = list(computations.get(called[1], {}).values()) if called else []
    layouts = ("bitcast", "copy")
    return x.opcode in layouts or (bool(inside) and all(y.opcode in ("parameter", *layouts) for y in inside))


def _written(fused: Computation, whole: int) -> int:
    """Bytes written by a fusion: of arrays of which it replaces slices, the slices."""
    root = next((x for x in fused.values() if x.root), None)
    if root is None:
        return whole
    results = [fused[name] for name in root.operands if name in fused] if root.opcode == "tuple" else [root]
    return min(whole, sum(_replaced(fused, x) for x in results))


def _replaced(fused: Computation, result: Instruction) -> int:
    while result.opcode == "bitcast" and result.operands[0] in fused:
        result = fused[result.operands[0]]
    if result.opcode == "dynamic-update-slice" and result.operands[1] in fused:
        return sum(fused[result.operands[1]].sizes)
    return sum(result.sizes)
