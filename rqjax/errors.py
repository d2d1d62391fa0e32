"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """A flag, file, checkpoint or configuration that cannot be used.

    Its message is one line: what was found, what was expected, what to do. Programs print it and exit with status 2.
    """
