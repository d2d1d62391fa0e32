"""Labels and texts as people give them, as the values of a prior's condition."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int

from rqjax.data.text import Vocabulary
from rqjax.errors import InputError, printable
from rqjax.interface import Condition
from rqjax.run.labels import chosen

Labels: TypeAlias = Any
"""A class or several, by name (str) or id (any whole number), or None."""
Texts: TypeAlias = Any
"""A text or several, in words or as lists of token ids, or None."""


def values_of(
    labels: Labels,
    texts: Texts,
    condition: Condition,
    names: Sequence[str],
    images: int | None = None,
    vocabulary: Callable[[], Vocabulary | None] = lambda: None,
) -> tuple[Int[np.ndarray, "n ..."], tuple[str, ...]]:
    """The condition's values for labels or texts, all classes if there are neither, and a name for each of them.

    With `images`, the number of given ones, there is a value for each. Texts in words need a `vocabulary`. Raises
    InputError for what the condition is not about, or does not have.
    """
    if condition.field == "text":
        said = _words(texts)
        ids = texts if said is None else _ids_of(said, vocabulary(), condition)
        values = _texts(labels, ids, condition)
        shown = [printable(text, 48) for text in said] if said else [f"text {i + 1}" for i in range(len(values))]
    else:
        if texts is not None:
            about = f"{condition.choices} classes: pass labels=" if condition.field else "nothing: leave them out"
            raise InputError(f"texts are given, and this prior is led by {about}")
        said = chosen(_listed(labels), condition, names, "labels")
        values = np.asarray(said, np.int32)
        shown = [names[label] if len(names) > label else str(label) for label in said] if condition.field else []
    if images is None:
        return values, tuple(shown)
    if images != len(values):
        if labels is None and texts is None and condition.field:
            raise InputError(
                f"given codes of {images} images without a {condition.field}: say one for each, or for all"
            )
        if len(values) != 1:
            raise InputError(f"{len(values)} labels or texts for given codes of {images} images: say one for each")
        values, shown = np.repeat(values, images, axis=0), shown * images
    return values, tuple(shown)


def _listed(labels: Labels) -> list[str | int]:
    """Labels as a list of names and ids."""
    if labels is None:
        return []
    if isinstance(labels, np.ndarray) or hasattr(labels, "__array__"):
        labels = np.asarray(labels).tolist()
    several = isinstance(labels, Sequence) and not isinstance(labels, str)
    listed = list(labels) if several else [labels]
    if not listed:
        raise InputError("labels are an empty list: name a class, or leave them out for all")
    for label in listed:
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            raise InputError(f"labels have a {type(label).__name__}: expected names or whole numbers")
    return [label if isinstance(label, str) else int(label) for label in listed]


def _words(texts: Texts) -> list[str] | None:
    """Texts in words as a list; None for others."""
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, Sequence) or not any(isinstance(text, str) for text in listed):
        return None
    if others := [type(text).__name__ for text in listed if not isinstance(text, str)]:
        raise InputError(f"texts have words and a {others[0]}: expected all in words, or all as token ids")
    return list(listed)


def _ids_of(texts: list[str], vocabulary: Vocabulary | None, condition: Condition) -> Int[np.ndarray, "n length"]:
    """The token ids of texts in words. Raises InputError without a vocabulary, and for bytes that are no text."""
    if vocabulary is None:
        raise InputError(
            "texts are words, and this prior keeps no vocabulary: put its vocab.json and merges.txt into the folder"
            " vocabulary/ of its directory, or pass lists of token ids"
        )
    if wrong := [text for text in texts if any("\ud800" <= x <= "\udfff" for x in text)]:
        raise InputError(f"the text {printable(wrong[0], 60)!r} is no UTF-8: say it in other letters")
    return np.stack([vocabulary.ids(text, condition.length) for text in texts])


def _texts(labels: Labels, texts: Texts, condition: Condition) -> Int[np.ndarray, "n length"]:
    """Texts as ids of the condition's length, padded with 0."""
    expected = f"up to {condition.length} ids from 0 to {condition.size - 1}"
    if labels is not None:
        raise InputError("labels are given, and this prior is led by texts: pass texts=")
    if texts is None:
        raise InputError(f"this prior is led by texts: pass texts=, in words or as lists of {expected}")
    listed = texts if isinstance(texts, Sequence) else np.asarray(texts)
    listed = [listed] if len(listed) and np.ndim(listed[0]) == 0 else list(listed)
    rows = [np.asarray(text) for text in listed]
    for row in rows:
        if row.ndim != 1 or not 0 < len(row) <= condition.length or not np.issubdtype(row.dtype, np.integer):
            raise InputError(f"texts have one of shape {row.shape} and {row.dtype}: expected lists of {expected}")
    if not rows:
        raise InputError(f"texts are an empty list: expected lists of {expected}")
    values = np.stack([np.pad(row, (0, condition.length - len(row))) for row in rows])
    condition.check(values)
    return values.astype(np.int32)
