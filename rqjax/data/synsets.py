"""Readable names of ImageNet's class folders, which are called by their WordNet ids."""

import collections
import pathlib
import re
from collections.abc import Sequence

from rqjax.errors import InputError
from rqjax.files import read_regular

FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
"""Names of the lists that go around with ImageNet: on each line an id and its words."""
ABOVE = 3
"""Folders above the images that are looked through: the list lies beside the images, or above Data/CLS-LOC."""
_ID = re.compile(r"n\d{8}")
_BYTES = 2**24


def readable(classes: Sequence[str], folder: pathlib.Path) -> tuple[str, ...]:
    """The first word of each class that is called by a WordNet id, by a list in `folder` or above; all others as is.

    Words that stand for several classes ("crane" is a bird and a machine) keep the id behind them. Raises InputError
    for a list that lacks one of the classes, or is no UTF-8.
    """
    if not classes or not all(_ID.fullmatch(name) for name in classes):
        return tuple(classes)
    places = [folder, *folder.resolve().parents[:ABOVE]]
    path = next((place / name for place in places for name in FILES if (place / name).is_file()), None)
    if path is None:
        return tuple(classes)
    try:
        lines = read_regular(path, _BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): expected lines of WordNet ids and words") from error
    words = {key: rest.split(",")[0].strip() for key, _, rest in (re.sub(r"\s+", " ", x).partition(" ") for x in lines)}
    if missing := [name for name in classes if not words.get(name)]:
        raise InputError(f"{path} has no words for {missing[0]}, a class folder: complete it, or take it away")
    times = collections.Counter(words[name] for name in classes)
    return tuple(words[name] if times[words[name]] == 1 else f"{words[name]} ({name})" for name in classes)
