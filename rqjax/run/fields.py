"""The fields of a configuration by name: set from words, and listed with their values and meanings."""

import ast
import dataclasses
import difflib
import functools
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any

from rqjax.errors import InputError
from rqjax.run.annotated import NAMES

SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field that holds no configuration of its own."""

    name: str  # "stage.model.depth"
    value: object
    meaning: str  # the comment beside it; empty if there is none

    @property
    def word(self) -> str:
        """The value as a flag takes it."""
        values = self.value if isinstance(self.value, tuple | list) else (self.value,)
        return ",".join("none" if x is None else str(x).lower() if isinstance(x, bool) else str(x) for x in values)


def listed(config: object, prefix: str = "") -> Iterator[Field]:
    """Every field of a configuration and of those inside it, in the order of their definitions."""
    said = meanings(type(config))
    for field in dataclasses.fields(config):  # pyrefly: ignore  (a dataclass)
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from listed(value, f"{name}.")
        else:
            yield Field(name, value, said.get(field.name, ""))


def assign(config: object, name: str, word: str | None) -> None:
    """Sets the field `name` of a configuration from a word of the command line; None is a flag without a value.

    Raises InputError for a name that is no field, with the nearest, and for a word that is no value of it.
    """
    *parents, last = name.split(".")
    holder = config
    for i, part in enumerate([*parents, last]):
        where = ".".join(parents[:i])
        if not dataclasses.is_dataclass(holder):
            raise InputError(f"--config.{name}: {where} is {holder!r} and has no fields")
        if part not in {field.name for field in dataclasses.fields(holder)}:
            raise InputError(f"--config.{name}: {_unknown(config, holder, where, part)}")
        if i < len(parents):
            holder = getattr(holder, part)
    kind = typing.get_type_hints(type(holder))[last]
    value = getattr(holder, last)
    if dataclasses.is_dataclass(value) and not _is_none(kind, word):
        inside = ", ".join(field.name for field in dataclasses.fields(value))
        raise InputError(f"--config.{name} is a {type(value).__name__}: set one of its fields, {inside}")
    try:
        setattr(holder, last, _value(kind, word))
    except ValueError as error:
        given = "has no value" if word is None else f"is {word!r}"
        raise InputError(f"--config.{name} {given}: expected {error}") from None


def _unknown(config: object, holder: object, where: str, part: str) -> str:
    """The line about a name that is no field: which is meant, or which there are."""
    inside = [field.name for field in dataclasses.fields(holder)]  # pyrefly: ignore
    elsewhere = [field.name for field in listed(config) if field.name.split(".")[-1] == part]
    near = difflib.get_close_matches(part, inside, n=1)
    if elsewhere:
        hint = f"did you mean --config.{' or --config.'.join(elsewhere[:3])}?"
    elif near:
        hint = f"did you mean --config.{f'{where}.' if where else ''}{near[0]}?"
    else:
        hint = f"there are {', '.join(inside)}"
    return f"a {type(holder).__name__} has no field {part!r}: {hint}"


def _is_none(kind: Any, word: str | None) -> bool:
    return word is not None and word.lower() == "none" and type(None) in typing.get_args(kind)


def _value(kind: Any, word: str | None) -> object:
    """A word as a value of an annotated type. Raises ValueError with what is expected."""
    if _is_none(kind, word):
        return None
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        return _tuple(typing.get_args(kind), word)
    if kind is bool:
        if (word or "true").lower() not in SWITCH:
            raise ValueError("true or false")
        return SWITCH[(word or "true").lower()]
    if kind not in (int, float, str):
        raise ValueError(f"a {getattr(kind, '__name__', kind)}, which no flag can give")
    if word is None:
        raise ValueError(f"one, as in =VALUE, {NAMES[kind]}")
    try:
        return kind(word)
    except ValueError:
        raise ValueError(NAMES[kind]) from None


def _tuple(kinds: tuple[Any, ...], word: str | None) -> tuple[object, ...]:
    words = [part.strip() for part in (word or "").strip("()[] ").split(",") if part.strip()]
    each = [kinds[0]] * len(words) if kinds[-1] is Ellipsis else list(kinds)
    expected = f"{NAMES[kinds[0]].removeprefix('a ')}s with commas between them"
    if len(words) != len(each):
        raise ValueError(f"{len(each)} {expected}")
    try:
        return tuple(kind(part) for kind, part in zip(each, words, strict=True))
    except ValueError:
        raise ValueError(expected) from None


@functools.cache
def meanings(kind: type) -> dict[str, str]:
    """The comment of each field of a dataclass: on its line, or else on the lines above it."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if dataclasses.is_dataclass(part):
            source = inspect.getsource(part)
            comments = _comments(source)
            body = ast.parse(source).body[0]
            assert isinstance(body, ast.ClassDef)
            for node in body.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found[node.target.id] = _beside(comments, node.lineno) or found.get(node.target.id, "")
    return found


def _beside(comments: dict[int, str], line: int) -> str:
    if line in comments:
        return comments[line]
    first = line
    while -(first - 1) in comments:  # a line of its own
        first -= 1
    return " ".join(comments[-i] for i in range(first, line))


def _comments(source: str) -> dict[int, str]:
    """Comments by line; by its negative where nothing stands in front of one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token for token in tokens if token.type == tokenize.COMMENT]
    return {
        -t.start[0] if t.line.lstrip().startswith("#") else t.start[0]: t.string.lstrip("# ")
        for t in found
        if "noqa" not in t.string
    }
