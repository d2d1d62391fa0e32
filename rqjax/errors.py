"""The exceptions that programs print as one line: input that cannot be used, a run that cannot go on, and Ctrl-C."""

from collections.abc import Sequence

DAMAGED = "the file is truncated or damaged: download it again"

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: an end, which no launcher should make a restart of."""


def printable(text: object, length: int | None = None) -> str:
    """Foreign text as one line that moves no cursor: its first `length` characters, or all, escaped where necessary.

    Control characters, line ends, marks of direction and lone surrogates (bytes of a file's name that are no UTF-8)
    become escapes as Python writes them.
    """
    shown = str(text)[:length]
    return shown if shown.isprintable() else "".join(map(_shown, shown))


def in_words(error: Exception) -> str:
    """An error's kind and its message, without line ends."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def some_of(problems: Sequence[str], most: int = 3, between: str = "; ") -> str:
    """The first `most` of several problems in one line, and how many more there are."""
    more = f" (and {len(problems) - most} more)" if len(problems) > most else ""
    return between.join(problems[:most]) + more


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class InputError(ValueError):
    """A flag, file, checkpoint or configuration that cannot be used.

    Its message is one printable line: what was found, what was expected, what to do. Programs print it and exit with
    status 2.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class RunError(RuntimeError):
    """A run that met something from which it cannot go on: losses that stay NaN, a disk that is full.

    Its message is one printable line: what happened, what was kept, what to do. Programs print it and exit with
    status 1.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class Interrupted(KeyboardInterrupt):
    """The end that a person asked for by Ctrl-C, after a save.

    Its message is one line: what was saved, how to go on. Programs print it and exit with status 130.
    """
