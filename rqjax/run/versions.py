"""Runs written by earlier versions: their configurations and the names of their arrays, in the present form.

CHANGELOG.md lists the changes. A field that is added to a configuration needs nothing here if its default is the
behaviour before it.
"""

import importlib.metadata
import re
from collections.abc import Callable, Collection, Mapping

from rqjax.store.arrays import Place

VERSION = importlib.metadata.version("rqjax")
FIRST = "0.1.0"
"""The version that wrote a configuration without one."""
Stored = dict[str, object]  # a result of config.to_dict

QUANTIZER = ("depth", "decay", "restart_threshold", "update_once_per_step", "commitment_weight", "restart_warning")
"""Fields of an RQVAEConfig of version 0.1 that are its quantizer's now."""


def upgrade(stored: object) -> object:
    """`stored`, with every part of it in the present form. Present forms stay as they are."""
    if isinstance(stored, list):
        return [upgrade(x) for x in stored]
    if not isinstance(stored, dict):
        return stored
    inside = {name: upgrade(x) for name, x in stored.items()}
    change = CHANGES.get(str(stored.get("type")))
    return change(inside) if change else inside


def _rqvae(stored: Stored) -> Stored:
    if "quantizer" in stored or "codes" not in stored:
        return stored
    moved = {name: stored[name] for name in QUANTIZER if name in stored}
    quantizer = {"type": "QuantizerConfig", "codebook_size": stored["codes"], **moved}
    return {name: x for name, x in stored.items() if name not in (*QUANTIZER, "codes")} | {"quantizer": quantizer}


def _rqtransformer(stored: Stored) -> Stored:
    if "vocab" not in stored:
        return stored
    stored = _renamed("vocab", "codebook_size")(stored)
    # a length without a text meant nothing
    return stored if stored.get("text_vocab") else stored | {"text_length": 0}


def _renamed(old: str, new: str) -> Callable[[Stored], Stored]:
    return lambda stored: {new if name == old else name: x for name, x in stored.items()}


CHANGES: dict[str, Callable[[Stored], Stored]] = {
    "RQVAEConfig": _rqvae,
    "RQTransformerConfig": _rqtransformer,
    "DQVAEConfig": _renamed("codes", "codebook_size"),
}
"""By the type of a stored dataclass: version 0.1 to the present."""

ITEM = r"(?P<item>|model/|ema/)"
MOVED: Mapping[str, str] = {
    # RQ-VAE: the rows behind the last codes, [books dim], are each book's own now
    ITEM + r"quantizer/(?P<book>codebooks/\d+/(embed|count|total))": r"\g<item>\g<book>",
    ITEM + r"quantizer/codebooks/(?P<row>\d+)/padding": r"\g<item>padding",
    # DQ-VAE: one book and one row
    ITEM + r"quantizer/(?P<part>embed|count|total)": r"\g<item>codebooks/0/\g<part>",
    ITEM + r"quantizer/padding": r"\g<item>padding",
}
"""Present names of a tokenizer's arrays, and their names in version 0.1. The networks' and optimizers' have stayed."""


def places(wanted: Collection[str], stored: Collection[str]) -> dict[str, Place]:
    """The place of each array among those that any version stored: under its own name if that is there."""
    return {name: _place(name, stored) for name in wanted}


def _place(name: str, stored: Collection[str]) -> Place:
    if name not in stored:
        for present, earlier in MOVED.items():
            match = re.fullmatch(present, name)
            if match and (old := match.expand(earlier)) in stored:
                row = match.groupdict().get("row")
                return Place(old, None if row is None else int(row))
    return Place(name)
