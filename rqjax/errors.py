"""The exceptions that programs print as one line: input that cannot be used, a run that cannot go on, and Ctrl-C."""

DAMAGED = "the file is truncated or damaged: download it again"

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: an end, which no launcher should make a restart of."""


class InputError(ValueError):
    """A flag, file, checkpoint or configuration that cannot be used.

    Its message is one line: what was found, what was expected, what to do. Programs print it and exit with status 2.
    """


class RunError(RuntimeError):
    """A run that met something from which it cannot go on: losses that stay NaN, a disk that is full.

    Its message is one line: what happened, what was kept, what to do. Programs print it and exit with status 1.
    """


class Interrupted(KeyboardInterrupt):
    """The end that a person asked for by Ctrl-C, after a save.

    Its message is one line: what was saved, how to go on. Programs print it and exit with status 130.
    """
