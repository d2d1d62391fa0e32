"""Whether values fit the annotations of a configuration's fields, for configurations that come from files."""

import dataclasses
import types
import typing
from typing import Any

NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def fits(value: object, kind: Any) -> bool:
    """Whether `value` is one of the annotated type: a number, a text, a tuple of them, a configuration, or a union."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple) or (parts[-1] is not Ellipsis and len(value) != len(parts)):
            return False
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return all(map(fits, value, kinds))
    if kind in NAMES:
        return type(value) is kind or (kind is float and type(value) is int and abs(value) < 2**63)
    return _fulfils(value, kind) if getattr(kind, "_is_protocol", False) else isinstance(value, kind)


def _fulfils(value: object, contract: Any) -> bool:
    """Whether a configuration has all that a contract asks for; none of its properties is computed for that."""
    asked = {*contract.__annotations__, *(name for name in vars(contract) if not name.startswith("_"))}
    return dataclasses.is_dataclass(value) and asked <= {
        *dir(type(value)),
        *(x.name for x in dataclasses.fields(value)),
    }


def named(kind: Any) -> str:
    """An annotated type in the words of messages."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(named, parts))
    if origin is tuple:
        many = "a list" if parts[-1] is Ellipsis else f"a list of {len(parts)}"
        return f"{many}, each {named(parts[0])}"
    return NAMES.get(kind) or f"a {kind.__name__}"
