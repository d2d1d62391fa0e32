"""The flags --config and --config.FIELD: which configuration, and the fields that its user sets."""

import dataclasses
import re
from collections.abc import Sequence

from absl import flags

NAME = "config"
FIELD = "config.FIELD"
_WORD = re.compile(r"--?(?P<no>no)?config\.(?P<field>[^=]+)(?P<value>=.*)?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A configuration as its user names it."""

    name: str  # of a shipped configuration, or the path of a file, each with its variant: "quickstart:rqvae"
    fields: tuple[str, ...] = ()  # "data.batch=32", in the order of the flags; a switch may stand alone

    @property
    def given(self) -> frozenset[str]:
        """The names of the fields that are set."""
        return frozenset(field.partition("=")[0] for field in self.fields)


def define(values: flags.FlagValues) -> None:
    """Adds --config, and --config.FIELD for any field of it, to a verb's flags."""
    flags.DEFINE_string(
        NAME, None, "A name of `rqjax configs` or a Python file, as in quickstart:rqvae or mine.py.", flag_values=values
    )
    flags.DEFINE_multi_string(
        FIELD,
        [],
        "Any field, as in --config.data.batch=32; `rqjax train --print_config` lists them.",
        flag_values=values,
    )


def asked(values: flags.FlagValues) -> Asked | None:
    """The configuration that the parsed flags of a verb ask for, if any."""
    name = values[NAME].value
    return None if name is None else Asked(name, tuple(values[FIELD].value or ()))


def spelled(words: Sequence[str]) -> list[str]:
    """The words of a command line, with every --config.a.b=3 as --config.FIELD=a.b=3, which absl knows.

    A value may be a word of its own; a switch may have none, or `no` in front.
    """
    result, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        match = _WORD.fullmatch(word)
        if match is None:
            result.append(word)
            continue
        value = "=false" if match["no"] else match["value"] or ""
        if not value and rest and (not rest[0].startswith("-") or re.match(r"-\.?\d", rest[0])):
            value = f"={rest.pop(0)}"
        result.append(f"--{FIELD}={match['field']}{value}")
    return result
