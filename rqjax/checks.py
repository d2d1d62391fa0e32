"""Checks of configurations: each raises InputError in one line that says the field, its value and the remedy."""

import copy
import dataclasses
from collections.abc import Callable, Collection
from typing import TypeVar

from rqjax.errors import InputError

Config = TypeVar("Config")
T = TypeVar("T")
Value = int | float | tuple[int | float, ...]


def at_least(least: int | float, **fields: Value) -> None:
    """Refuses a field, or an element of one, below `least`; an empty tuple is refused too."""
    for name, value in fields.items():
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(x >= least for x in values):
            kind = "whole numbers of at least" if isinstance(least, int) and least else "at least"
            raise InputError(f"{name} is {value}: expected {kind} {least}")


def one_of(choices: Collection[str | int], **fields: str | int) -> None:
    """Refuses a field that is none of `choices`."""
    for name, value in fields.items():
        if value not in choices:
            raise InputError(f"{name} is {value!r}: expected one of {', '.join(map(str, choices))}")


def rates(**fields: float) -> None:
    """Refuses a field outside [0, 1)."""
    for name, value in fields.items():
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value}: expected a rate in [0, 1)")


def divides(whole: int, of: str, **fields: int) -> None:
    """Refuses a field that does not divide `whole`, the value of the field `of`."""
    for name, value in fields.items():
        if whole % value:
            raise InputError(f"{name}={value} does not divide {of}={whole}: choose a divisor")


def frozen(config: Config) -> Config:
    """A deep copy that nobody else holds, with lists turned to tuples: a static field of a model must be hashable."""
    copied = copy.deepcopy(config)
    for name, value in vars(copied).items():
        if dataclasses.is_dataclass(value):
            setattr(copied, name, frozen(value))
        elif isinstance(value, list):
            setattr(copied, name, tuple(value))
    return copied


def number_of(flag: str, word: str, kind: Callable[[str], T]) -> T:
    """The number that a word of a flag is, by int or float."""
    try:
        return kind(word)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"--{flag} has {word!r}: expected {what}, or several between commas") from error
