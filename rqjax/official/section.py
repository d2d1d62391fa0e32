"""One section of an official configuration file: options are read by name and kind, and none is left unread."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from rqjax.errors import InputError, printable

Value = TypeVar("Value")
PUBLISHED = "as every published model has it"
AGREE = "to agree with the rest of this file"


class Section:
    """Options by name, and their dotted place in the file for messages, as in `arch.hparams`.

    An option without a value counts as missing; each reader raises InputError for what is missing (unless it has a
    default) or of another kind. `finish` refuses the options that nobody has read: a misspelt one never passes for a
    default.
    """

    def __init__(self, options: object, place: str):
        if not isinstance(options, Mapping):
            raise InputError(f"{place or 'the file'} is {_shown(options)}: expected a section of options")
        self.place = place
        self.options = {str(key): value for key, value in options.items()}
        self._read: set[str] = set()
        self._sections: dict[str, Section] = {}

    def has(self, key: str) -> bool:
        """Whether the option is there, with a value."""
        self._read.add(key)
        return self.options.get(key) is not None

    def ignore(self, *keys: str) -> None:
        """Accepts options of any value; `sample.top_k` is the option `top_k` where `sample` is a section."""
        for key in keys:
            first, _, rest = key.partition(".")
            if rest and isinstance(self.options.get(first), Mapping):
                self.section(first).ignore(rest)
            self._read.add(first)

    def finish(self) -> None:
        """Raises InputError that names all options, here and in the sections within, that were not read."""
        if unread := self._unread():
            raise InputError(f"unknown keys {', '.join(unread)}: correct them, or remove them if they mean nothing")

    def section(self, key: str, optional: bool = False) -> "Section":
        """The section of that name; an empty one if there is none and it is optional."""
        if key not in self._sections:
            self._sections[key] = Section(self._value(key, {} if optional else None), self._name(key))
        return self._sections[key]

    def instance(self, *classes: str) -> "tuple[str, Section]":
        """The class that the option `target` names, known by the end of its name, and the section `params` for it."""
        target = self.text("target")
        if not (found := [name for name in classes if target.endswith(name)]):
            raise self._wrong("target", target, f"one of {', '.join(classes)}")
        return found[0], self.section("params", optional=True)

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise self._wrong(key, value, f"a whole number of at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise self._wrong(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None, choices: Collection[str] = ()) -> str:
        """A text; one of the choices if there are any."""
        value = self._value(key, default)
        if not isinstance(value, str) or (choices and value not in choices):
            raise self._wrong(key, value, f"one of {', '.join(choices)}" if choices else "a text")
        return value

    def many(self, key: str, read: "Callable[[Section, str], Value]", count: int | None = None) -> tuple[Value, ...]:
        """A list (of `count` elements, if given), each element read by a method of this class."""
        value = self._value(key, None)
        if not isinstance(value, list | tuple) or count not in (None, len(value)):
            raise self._wrong(key, value, f"a list of {count or 'some'} values")
        elements = Section({str(i): element for i, element in enumerate(value)}, self._name(key))
        return tuple(read(elements, str(i)) for i in range(len(value)))

    def wholes(self, key: str, count: int | None = None) -> tuple[int, ...]:
        """A list of whole numbers of at least 1."""
        return self.many(key, Section.whole, count)

    def each(self, key: str, read: "Callable[[Section, str], Value]", count: int | None = None) -> tuple[Value, ...]:
        """A list as `many` reads it, or a single value that stands for all `count` of them."""
        single = not isinstance(self.options.get(key), list | tuple)
        return (read(self, key),) * (count or 1) if single else self.many(key, read, count)

    def take(self, read: "Callable[[Section, str], object]", *same: str, **renamed: str) -> dict[str, Any]:
        """Fields of ours from options that have the same name, and from others: ours=theirs."""
        return {ours: read(self, theirs) for ours, theirs in (dict(zip(same, same, strict=True)) | renamed).items()}

    def expect(self, why: str = PUBLISHED, required: bool = False, **values: object) -> None:
        """Refuses any value but the given one, which PUBLISHED or AGREE says why; a required option must be there."""
        for key, expected in values.items():
            if (found := self._value(key, None if required else expected)) != expected:
                raise self._wrong(key, found, f"{expected!r}, {why}")

    def check(self, check: Callable[[], None], **names: str) -> None:
        """A check of a configuration of ours; its errors name this section's options where `names` has ours=theirs."""
        try:
            check()
        except InputError as error:
            words = re.compile(rf"\b({'|'.join(names)})\b")
            raise InputError(words.sub(lambda found: self._name(names[found[0]]), str(error))) from None

    def _unread(self) -> list[str]:
        within = [name for section in self._sections.values() for name in section._unread()]
        return [self._name(key) for key in self.options if key not in self._read] + within

    def _value(self, key: str, default: object) -> object:
        self._read.add(key)
        found = self.options.get(key)
        if found is None and default is None:
            raise InputError(f"{self._name(key)} is missing: copy it from the official config")
        return default if found is None else found

    def _name(self, key: str) -> str:
        name = f"{self.place}.{key}" if self.place else key
        return printable(name, 200)

    def _wrong(self, key: str, value: object, expected: str) -> InputError:
        return InputError(f"{self._name(key)} is {_shown(value)}: expected {expected}")


def _shown(value: object) -> str:
    """The value in a message, where it is neither long nor moves the terminal's cursor."""
    try:
        return printable(repr(value), 80)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "a huge number"
