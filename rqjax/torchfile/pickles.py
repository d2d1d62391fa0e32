"""A pickle read as data: the standard library's machine without the instructions that import, call or allocate freely.

Nothing that a pickle names is imported or called: `find_class` gives records, and REDUCE, NEWOBJ and BUILD, which would
call them, look their names up in a table of our functions or make more records. The machine is the one that the
standard library keeps in Python: the one in C allocates what a memo index claims, and hashes a key before it can be
refused, so that a file of a hundred bytes exhausts the memory or never ends.
"""

import mmap
import pickle
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from rqjax.errors import InputError
from rqjax.store.dtypes import DTYPES
from rqjax.torchfile.foreign import Foreign
from rqjax.torchfile.numpy_pickles import set_state

STEPS = 1_000_000
"""The most that a pickle may cost: 3,000 tensors take a fifth of it. At 90 bytes a step it bounds the memory, too."""
STEP_BYTES = 40
"""This much text costs a step, and so does every reading."""
CALL, NUMBER = 10, 10
"""The steps of a call, and of a number as a key, since numbers can be chosen so that they collide in a table."""
LINE_BYTES = 500
NESTING = 100
"""The deepest that containers may nest."""
PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
SUBCLASSES = {(module, f"_rebuild_from_type{v}") for module in ("torch.tensor", "torch._tensor") for v in ("", "_v2")}
INSTRUCTIONS = (
    "proto frame stop mark pop pop_mark none true false int binint binint1 binint2 long1 binfloat binstring "
    "short_binstring binbytes short_binbytes binbytes8 binunicode short_binunicode binunicode8 empty_tuple tuple "
    "tuple1 tuple2 tuple3 empty_list append appends empty_dictionary setitem setitems binput long_binput memoize "
    "binget long_binget global stack_global reduce newobj build binpersid"
)
"""Those of protocol 2, which torch.save writes, most of protocol 4, and INT, by which Python 2 wrote long integers."""

Constructors = Mapping[tuple[str, str], Callable[..., object]]


class Window:
    """The part of a mapped file that pickles are read from, one after the other, and a bound on their cost."""

    def __init__(self, mapped: mmap.mmap, start: int, stop: int):
        self.mapped, self.position, self.stop, self.left = mapped, start, stop, STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise InputError(f"its pickle takes more than {STEPS} steps to read: save the tensors without the rest")

    def read(self, count: int) -> bytes:
        self.spend(1 + count // STEP_BYTES)
        self.position += count
        if self.position > self.stop:
            raise EOFError("its pickle has no end")
        return self.mapped[self.position - count : self.position]

    def readline(self) -> bytes:
        end = self.mapped.find(b"\n", self.position, min(self.stop, self.position + LINE_BYTES))
        if end < 0:
            raise EOFError("a line of its pickle has no end")
        return self.read(end + 1 - self.position)


class Instructions(dict[int, Callable[[pickle.Unpickler], None]]):
    """The machine's method for each instruction that it knows."""

    def __missing__(self, code: int) -> Callable[[pickle.Unpickler], None]:
        raise InputError(f"its pickle uses the instruction {chr(code)!r}, which torch.save never writes")


class Reader(pickle._Unpickler):
    """Reads one pickle from a window, in bounded time and memory."""

    stack: list
    append: Callable[[object], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list]

    def __init__(self, window: Window, constructors: Constructors, storage: Callable[[object], object] | None):
        super().__init__(window, encoding="latin1")
        self.window, self.constructors, self.storage = window, constructors, storage
        self.names: dict[tuple[str, str], Foreign] = {}

    def key(self, key: object) -> object:
        """`key`, if it is text, a number, None or a record: tuples and frozensets can take years to hash or compare."""
        if isinstance(key, (str, bytes)):
            self.window.spend(len(key) // STEP_BYTES)
        elif isinstance(key, (int, float, np.integer, np.floating)) and abs(float(key)) < 2**64:
            self.window.spend(NUMBER)
        elif key is not None and not isinstance(key, Foreign):
            raise InputError(f"a key or a member of a set is a {type(key).__name__}, expected text or a 64-bit number")
        return key

    def find_class(self, module: str, name: str) -> object:
        self.window.spend((len(module) + len(name)) // STEP_BYTES)
        module = PYTHON2.get(module, module).replace("numpy._core", "numpy.core")
        if module == "torch" and name in DTYPES:
            return f"torch.{name}"
        return self.names.setdefault((module, name), Foreign(module, name))

    def persistent_load(self, pid: object) -> object:
        if self.storage is None:
            raise ValueError("a storage is referred to outside the checkpoint's pickle")
        return self.storage(pid)

    def call(self, target: object, arguments: object) -> object:
        """The result of our function of the target's name, else a record of the target and its arguments."""
        if not isinstance(target, Foreign) or not isinstance(arguments, tuple):
            raise TypeError(f"its pickle calls a {type(target).__name__}")
        name = (target.module, target.name)
        self.window.spend(CALL + len(arguments))
        if target.arguments is not None or name not in self.constructors:
            return Foreign(*name, arguments)
        self.window.spend(sum(map(_copied, arguments)))
        if name in SUBCLASSES:  # the plain tensor without its class and attributes
            function, _, tensor, _ = arguments
            return self.call(function, tensor)
        build = self.constructors[name]
        return self.fill(build, *arguments) if isinstance(build, type) else build(*arguments)

    def fill(self, kind: type, members: object = ()) -> object:
        """The dictionary or set of such members: pairs, or those of a dictionary; none if there are no arguments."""
        if not isinstance(members, (list, tuple, dict, set, frozenset)):
            raise TypeError(f"a {kind.__name__} is made of a {type(members).__name__}")
        if not issubclass(kind, dict):
            return kind(map(self.key, members))
        pairs = members.items() if isinstance(members, dict) else members
        return kind((self.key(key), value) for key, value in pairs)

    def set_items(self, target: object, values: list) -> None:
        entries = target.entries if isinstance(target, Foreign) else target
        if not isinstance(entries, dict):
            raise TypeError(f"its pickle sets items of a {type(target).__name__}")
        entries.update(zip(map(self.key, values[::2]), values[1::2], strict=True))

    def load_frame(self) -> None:
        self.read(8)  # only tells how far to read ahead

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        values = self.pop_mark()
        self.set_items(self.stack[-1], values)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    load_newobj = load_reduce

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.state = state
        elif isinstance(target, np.ndarray) and isinstance(state, tuple):
            self.window.spend(sum(map(_copied, state)))
            set_state(target, state)
        elif not isinstance(target, dict):  # the attributes of a dictionary, as state_dict's _metadata, are of no use
            raise TypeError(f"its pickle sets the state of a {type(target).__name__}")


Reader.dispatch = Instructions(
    (code, getattr(Reader, load.__name__))
    for code, load in pickle._Unpickler.dispatch.items()
    if load.__name__.removeprefix("load_") in INSTRUCTIONS.split()
)


def read_pickle(
    window: Window, constructors: Constructors | None = None, storage: Callable[[object], object] | None = None
) -> object:
    """The object that the next pickle of `window` describes; afterwards the window stands behind its last byte.

    `constructors` has, by module and name, the functions of ours that make objects, and the types of containers;
    `storage` gets persistent ids. Raises InputError, or whatever the pickle provokes, where it is damaged or hostile.
    """
    return Reader(window, constructors or {}, storage).load()


def _copied(value: object) -> int:
    """The steps that a copy of `value` takes."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) // STEP_BYTES
    return len(value) if isinstance(value, (list, tuple, dict, set, frozenset)) else 0


def nesting(value: object, known: dict[int, int], depth: int = 1) -> int:
    """How deep the containers in `value` nest; InputError beyond NESTING, where they would overflow who walks them."""
    if depth + known.get(id(value), 0) > NESTING:
        raise InputError(f"its containers nest deeper than {NESTING}")
    if id(value) not in known:
        known[id(value)] = 0  # what comes back to itself nests no deeper
        parts = (part for part in _parts(value) if isinstance(part, (list, tuple, dict, Foreign)) and part)
        known[id(value)] = 1 + max((nesting(part, known, depth + 1) for part in parts), default=0)
    return known[id(value)]


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Foreign):
        return value.arguments, value.state, value.items, value.entries
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, (list, tuple)) else ()  # the members of sets are no containers
