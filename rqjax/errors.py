"""The exceptions that programs print as one line: input that cannot be used, and a run that cannot go on."""

DAMAGED = "the file is truncated or damaged: download it again"


class InputError(ValueError):
    """A flag, file, checkpoint or configuration that cannot be used.

    Its message is one line: what was found, what was expected, what to do. Programs print it and exit with status 2.
    """


class RunError(RuntimeError):
    """A run that met something from which it cannot go on: losses that stay NaN, a disk that is full.

    Its message is one line: what happened, what was kept, what to do. Programs print it and exit with status 1.
    """
