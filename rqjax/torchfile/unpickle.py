"""A stack machine that reads pickles as data: it has no instruction that imports or calls what the pickle names.

The standard library's unpicklers are not used. Even with a restricted `find_class` they allocate whatever a memo
index or a length claims, and they hash any key, so that a file of a hundred bytes can exhaust the memory or never end.
"""

from collections.abc import Callable, Mapping
from typing import Any, no_type_check

from rqjax.errors import InputError
from rqjax.torchfile.foreign import Constructor, Foreign, check_nesting, hashable
from rqjax.torchfile.pickle_stream import Window, operations

COPIED_BYTES: int = 2**30
"""The most that constructors may copy: the same string or list can be passed to them over and over."""

LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "  # noqa: SIM905
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def refuse_state(target: Any, _: Any) -> None:
    """The `set_state` of a pickle in which only foreign objects and dictionaries may have one."""
    raise InputError(f"its pickle is damaged (it sets the state of a {type(target).__name__})")


def run_pickle(
    window: Window,
    known: Mapping[tuple[str, str], Any],
    load_storage: Callable[[Any], Any],
    set_state: Callable[[Any, Any], None] = refuse_state,
) -> Any:
    """The object that the pickle in `window` describes; afterwards the window stands behind its last byte.

    `known` maps (module, name) to the function of ours that builds such objects, or to a string that stands for the
    name; every other name becomes a Foreign. `load_storage` gets persistent ids; `set_state` gets objects that are
    neither dictionaries nor foreign, with the state they are to have. Raises InputError for a damaged pickle.
    """
    machine = _Machine(known, load_storage, set_state)
    for name, argument in operations(window):
        machine.step(name, argument)
    result = machine.pop()
    check_nesting(result)
    return result


@no_type_check
class _Machine:
    """The stack, the memo, and one method for each group of instructions.

    Unchecked in tests too: its methods run for each instruction, and checking would take most of the time.
    """

    def __init__(self, known: Mapping[tuple[str, str], Any], load_storage: Callable, set_state: Callable):
        self.known, self.load_storage, self.set_state = known, load_storage, set_state
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[tuple[str, str], Any] = {}
        self.copied = 0

    def step(self, name: str, argument: Any) -> None:
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in INSTRUCTIONS:
            INSTRUCTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise InputError(f"its pickle uses the instruction {name}, which torch.save never writes")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise InputError("its pickle is damaged (it takes more from the stack than there is)")
        return self.stack.pop()

    def top(self) -> Any:
        self.stack.append(value := self.pop())
        return value

    def since_mark(self) -> list[Any]:
        if not self.outer:
            raise InputError("its pickle is damaged (a mark is missing)")
        values, self.stack = self.stack, self.outer.pop()
        return values

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_one(self, _: Any) -> None:
        if self.stack or not self.outer:
            self.pop()
        else:
            self.since_mark()

    def pop_marked(self, _: Any) -> None:
        self.since_mark()

    def make_dict(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append({})
        self.set_items(values)

    def make_tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(values)))

    def put(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise InputError("its pickle is damaged (it refers to an object that it has not made)")
        self.stack.append(self.memo[index])

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, (list, Foreign)):
            (target if isinstance(target, list) else target.items).extend(values)
        elif isinstance(target, set):
            target.update([hashable(value) for value in values])
        else:
            raise InputError(f"its pickle is damaged (it appends to a {type(target).__name__})")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, (dict, Foreign)) or len(values) % 2:
            raise InputError(f"its pickle is damaged (it sets items of a {type(target).__name__})")
        entries = target if isinstance(target, dict) else target.entries
        entries.update(zip(map(hashable, values[::2]), values[1::2], strict=True))

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise InputError("its pickle is damaged (a global's name is not text)")
        key = (PYTHON2.get(module, module).replace("numpy._core", "numpy.core"), name)
        if key not in self.names:
            entry = self.known.get(key)
            self.names[key] = Foreign(module, name) if entry is None else entry
            if callable(entry):
                self.names[key] = Constructor(module, name, entry)
        self.stack.append(self.names[key])

    def find_on_stack(self, _: Any) -> None:
        name = self.pop()
        self.find(self.pop(), name)

    def call(self, target: Any, arguments: Any, keywords: Any = None) -> None:
        if not isinstance(target, Foreign) or not isinstance(arguments, tuple):
            raise InputError(f"its pickle is damaged (it calls a {type(target).__name__})")
        if isinstance(target, Constructor) and not keywords:
            self.charge(arguments)
            self.stack.append(target.construct(arguments))
        else:
            self.stack.append(Foreign(target.module, target.name, arguments, keywords))

    def charge(self, values: tuple[Any, ...]) -> None:
        """Counts what a constructor may copy; members of containers count four hundred bytes each."""
        self.copied += 400 * len(values)
        self.copied += sum(len(value) for value in values if isinstance(value, (str, bytes, bytearray)))
        self.copied += 400 * sum(
            len(value) for value in values if isinstance(value, (list, tuple, dict, set, frozenset))
        )
        if self.copied > COPIED_BYTES:
            raise InputError("its pickle copies more data than a checkpoint can need")

    def reduce(self, _: Any) -> None:
        arguments = self.pop()
        self.call(self.pop(), arguments)

    def reduce_with_keywords(self, _: Any) -> None:
        keywords, arguments = self.pop(), self.pop()
        self.call(self.pop(), arguments, keywords)

    def reduce_marked(self, name: Any) -> None:
        """INST names the class in its argument, OBJ has it first behind the mark."""
        values = self.since_mark()
        if name is None:
            self.stack.extend(values[:1])
            values = values[1:]
        else:
            self.find(*name.split(" ", 1))
        self.call(self.pop(), tuple(values))

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Foreign):
            target.state = state
        elif not isinstance(target, dict):  # a dictionary's attributes, as state_dict's _metadata, are of no use here
            self.charge((state, *state) if isinstance(state, tuple) else (state,))
            self.set_state(target, state)


INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop_one,
    "POP_MARK": _Machine.pop_marked,
    "DUP": lambda machine, _: machine.push(machine.top()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(hashable, machine.since_mark()))),
    "DICT": _Machine.make_dict,
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda machine, name: machine.find(*name.split(" ", 1)),
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.reduce_with_keywords,
    "INST": _Machine.reduce_marked,
    "OBJ": _Machine.reduce_marked,
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine, _: machine.push(machine.load_storage(machine.pop())),
}
