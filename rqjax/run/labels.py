"""Classes as a command line names them: by the names that a run keeps, or by their ids."""

import difflib
from collections.abc import Sequence

from rqjax.errors import InputError
from rqjax.interface import Condition
from rqjax.run.dataset import few


def chosen(words: Sequence[str | int], condition: Condition, names: Sequence[str], flag: str = "--label") -> list[int]:
    """The ids that `words` name, or all if there are none. `names` are those of the run's classes; none if not kept.

    A name comes before an id in digits; a number is an id. `flag` is what gave them. Raises InputError for a word that
    is no class of the prior, or if it knows no classes.
    """
    if condition.field == "text":
        raise InputError(
            f"this prior is led by a text, and {flag} gives classes: say it with --text (in Python: texts=)"
        )
    if condition.field is None and words:
        said = ",".join(map(str, words))
        raise InputError(f"{flag} is {said}, and this prior knows no classes: leave it out")
    return [_id(word, condition.choices, names, flag) for word in words] or list(range(condition.choices))


def _id(given: str | int, classes: int, names: Sequence[str], flag: str) -> int:
    word = str(given).strip()
    if word in names and isinstance(given, str):
        return names.index(word)
    alike = [k for k, name in enumerate(names) if name.casefold() == word.casefold()]
    if len(alike) == 1 and isinstance(given, str):
        return alike[0]
    if word.removeprefix("-").isdecimal():
        if len(word) < 20 and 0 <= int(word) < classes:
            return int(word)
        raise InputError(f"{flag} {word} is out of range: this prior has {classes} classes, from 0 to {classes - 1}")
    if not names:
        raise InputError(
            f"{flag} has {word!r}: expected a whole number, since this prior keeps no names of its classes"
        )
    similar = difflib.get_close_matches(word.casefold(), [name.casefold() for name in names], n=3)
    near = [name for name in names if name.casefold() in similar]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {few(names)}"
    raise InputError(f"{flag} has {word!r}, which is no class of this prior: {hint}")
