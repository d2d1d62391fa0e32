"""The image files below a folder, each once, and what else lies there that may have been meant as one."""

import collections
import os
import pathlib
import stat
from collections.abc import Mapping

from rqjax.errors import printable
from rqjax.files import kind_of, patiently

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
OTHER_IMAGES = frozenset(
    (
        *(".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".ico", ".ppm", ".pgm", ".pbm", ".tga"),
        *(".psd", ".svg", ".exr", ".hdr", ".npy", ".npz"),
    )
)
"""Endings of images that are not read, which the owner of a folder should hear about."""


def image_files(root: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    """Paths of images below `root`, with forward slashes, sorted by name; and what was left out: {path: reason}.

    Links to folders are followed after all folders proper, in the order of their names, and no folder is read twice, so
    that a link to one above leads nowhere. Hidden files and folders are not looked at.
    """
    walk = _Walk(root)
    while walk.folders or walk.links:
        walk.enter(walk.folders.popleft() if walk.folders else walk.links.popleft())
    return sorted(walk.files), walk.left_out


def skipped(found: Mapping[str, str], most: int = 20) -> list[str]:
    """Lines about what was left out or cannot be read ({name: reason}): `most` of them by name, and how many."""
    lines = [f"skipped {printable(name)}: {printable(reason)}" for name, reason in list(found.items())[:most]]
    return [*lines, f"skipped {len(found)} in all"] if len(found) > 1 else lines


class _Walk:
    def __init__(self, root: pathlib.Path):
        self.root = root
        self.files: list[str] = []
        self.left_out: dict[str, str] = {}
        self.folders, self.links = collections.deque([""]), collections.deque[str]()
        self.seen: set[tuple[int, int]] = set()

    def enter(self, below: str) -> None:
        """Sorts what a folder holds into files, folders, links and the rest."""
        folder = str(self.root / below)
        try:
            identity, entries = patiently(lambda: _listed(folder), folder)
        except OSError as error:
            self.left_out[folder] = str(error.strerror)
            return
        if identity in self.seen:
            self.left_out[folder] = "leads to a folder that is read already"
            return
        self.seen.add(identity)
        others: collections.Counter[str] = collections.Counter()
        for entry in entries:
            ending = os.path.splitext(entry.name)[1].lower()
            if not entry.name.startswith(".") and not self._take(entry, f"{below}/{entry.name}".lstrip("/"), ending):
                others[ending] += 1
        if found := ", ".join(f"{others[ending]} {ending}" for ending in sorted(OTHER_IMAGES & others.keys())):
            self.left_out[folder] = f"{found} not read, expected {' '.join(EXTENSIONS)}"

    def _take(self, entry: os.DirEntry[str], path: str, ending: str) -> bool:
        """Whether an entry is a folder or, by its name, an image."""
        try:
            mode, reason = entry.stat().st_mode if entry.is_symlink() else _mode(entry), ""
        except OSError as error:  # a link to nothing, or to itself
            mode, reason = 0, str(error.strerror)
        if stat.S_ISDIR(mode):
            if not entry.name.startswith("__"):
                (self.links if entry.is_symlink() else self.folders).append(path)
            return True
        if ending not in EXTENSIONS:
            return False
        if stat.S_ISREG(mode):
            self.files.append(path)
        else:
            self.left_out[entry.path] = reason or f"is {kind_of(mode)}, expected a regular file"
        return True


def _listed(folder: str) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """The numbers that tell one folder from another, and its entries sorted by name."""
    status = os.stat(folder)
    with os.scandir(folder) as entries:
        return (status.st_dev, status.st_ino), sorted(entries, key=lambda entry: entry.name)


def _mode(entry: os.DirEntry[str]) -> int:
    """The type of an entry that is no link, which most file systems list without another question."""
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFDIR if entry.is_dir(follow_symlinks=False) else entry.stat().st_mode
