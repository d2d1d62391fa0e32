"""Configurations written by earlier versions, as the present ones would be written; CHANGELOG.md lists the changes."""

from collections.abc import Callable
from typing import Any

Stored = dict[str, Any]  # a result of config.to_dict

QUANTIZER = (*("depth", "decay", "restart_threshold", "update_once_per_step", "commitment_weight", "restart_warning"),)
"""Fields of an RQVAEConfig of version 0.1 that are its quantizer's now."""


def upgrade(stored: Any) -> Any:
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
