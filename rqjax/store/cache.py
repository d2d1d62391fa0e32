"""The user's folder for files that can be made again: copies of sets in buckets, compiled programs."""

import os
import pathlib


def cache_folder(name: str) -> pathlib.Path:
    """The folder of that name in `$XDG_CACHE_HOME/rqjax`, or in `~/.cache/rqjax`; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(home).expanduser() / "rqjax" / name
