"""The vocabulary of a text-to-image run, which its directory keeps: token ids mean nothing without it."""

import os
from collections.abc import Mapping

from rqjax.data.text import MERGES, VOCABULARY, Vocabulary
from rqjax.errors import InputError
from rqjax.run.config import Config
from rqjax.stages.predict import PredictConfig
from rqjax.store.remote import Path, replace_file, to_path

FOLDER = "vocabulary"
"""In a run's directory or a model's folder: vocab.json and merges.txt."""


def of(config: Config) -> Vocabulary | None:
    """The vocabulary that a run reads its captions by; None if its model reads none.

    Raises InputError if it cannot be read, or has more tokens than the model.
    """
    if not isinstance(config.stage, PredictConfig) or config.stage.model.condition.field != "text":
        return None
    vocabulary, size = Vocabulary.read(config.data.vocabulary), config.stage.model.condition.size
    if len(vocabulary) > size:
        raise InputError(
            f"{config.data.vocabulary} has {len(vocabulary)} tokens, and stage.model.text_vocab is {size}: raise it, or"
            " give a smaller vocabulary"
        )
    return vocabulary


def files(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The content of the files that a run's directory or a model's folder keeps, by name; none if it keeps none."""
    place = to_path(folder) / FOLDER
    paths = [path for name in (VOCABULARY, MERGES) if (path := place / name).is_file()]
    try:
        return {path.name: path.read_text(encoding="utf-8") for path in paths}
    except ValueError as error:
        raise InputError(f"{place} is damaged ({error}): put the vocabulary of its training there") from error


def kept(folder: str | os.PathLike[str]) -> Vocabulary | None:
    """The vocabulary that a run's directory or a model's folder keeps. Raises InputError if it is damaged."""
    content = files(folder)
    return Vocabulary.parsed(content, f"{folder}/{FOLDER}") if content else None


def write(folder: str | os.PathLike[str], content: Mapping[str, str]) -> None:
    """Keeps the files of a vocabulary, if there are any, in a run's directory or a model's folder."""
    place = to_path(folder) / FOLDER
    if content:
        place.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        replace_file(place / name, text)


def check_same(workdir: Path, now: Vocabulary | None) -> None:
    """Raises InputError if a run that was begun with one vocabulary would go on with another."""
    before = kept(workdir)
    if now is not None and before is not None and now != before:
        raise InputError(
            f"{workdir} was begun with another vocabulary, which {FOLDER}/ there keeps: its token ids would mean other"
            " words; give it the same one, or choose another --workdir"
        )
