"""The instructions of a pickle, parsed within bounds and not carried out."""

import mmap
import pickletools
from collections.abc import Iterator
from typing import Any, cast, no_type_check

from rqjax.errors import InputError

PICKLE_BYTES = 2**30
"""The most that one pickle may span; storages are not part of it."""
OPERATIONS: int = 4_000_000
"""The most instructions a pickle may have: a hundred times those of a checkpoint of 800 tensors and its optimizer."""
NUMBER_BITS = 2048
"""The longest integer: anything longer would not even print."""


@no_type_check  # its methods run for each instruction
class Window:
    """The part of a mapped file that one pickle may be read from, with what `pickletools.genops` needs of a file."""

    def __init__(self, mapped: mmap.mmap, start: int, stop: int):
        self.mapped, self.position, self.stop = mapped, start, min(stop, start + PICKLE_BYTES)

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes:
        start, self.position = self.position, min(self.position + count, self.stop)
        return self.mapped[start : self.position]

    def readline(self) -> bytes:
        end = self.mapped.find(b"\n", self.position, self.stop)
        line = self.read((self.stop if end < 0 else end + 1) - self.position)
        if b"\\" in line:  # only protocol 0 escapes text, and the parser would warn of escapes that do not exist
            raise ValueError("a line of text contains a backslash")
        return line


def operations(window: Window) -> Iterator[tuple[str, Any]]:
    """The name and argument of each instruction up to STOP; afterwards the window stands behind it.

    Raises InputError for what is not a pickle, and for one with excessive numbers or more instructions than OPERATIONS.
    """
    parsed = pickletools.genops(cast(Any, window))
    for _ in range(OPERATIONS):
        try:
            opcode, argument, _ = next(parsed)
        except StopIteration:
            return
        except ValueError as error:
            reason = " ".join(str(error)[:200].split())
            raise InputError(f"its pickle is truncated or damaged ({reason}): download the file again") from None
        if isinstance(argument, int) and argument.bit_length() > NUMBER_BITS:
            raise InputError(f"its pickle holds an integer of more than {NUMBER_BITS} bits, expected a checkpoint")
        yield opcode.name, argument
    raise InputError(f"its pickle has more than {OPERATIONS} instructions: save the tensors without the rest")
