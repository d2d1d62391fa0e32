"""An exception as the line that the page shows."""

from rqjax.errors import InputError, printable


def in_one_line(error: Exception) -> str:
    """Of input that cannot be used, and of a memory that is full. Raises any other error again."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"not enough memory ({printable(error, 160)}): ask for fewer images"
    raise error
