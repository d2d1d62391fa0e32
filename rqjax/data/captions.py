"""Images with captions by a list: lines of a path and a caption (CC-3M's), or of JSON."""

import json
import os
import pathlib
from typing import Any

from rqjax.data.sources import FILE_BYTES, HELD_OUT, NoSplitError, Record, held_out
from rqjax.errors import InputError
from rqjax.files import read_regular

ENDINGS = (".tsv", ".txt", ".jsonl")
_ONE_CLASS: tuple[str, ...] = ("images",)
_BYTES = 2**33


class Captioned:
    """The images that a list names, relative to its folder: `path<TAB>caption`, or {"image": path, "caption": text}.

    `path` is the list (then the share `holdout` of the images, by their paths' hashes, is not in "train"), or a folder
    with a list for each split: train_list.txt, val.tsv, validation.jsonl and so on. Captions may be empty; of several
    ([text, text]) the first counts. Lines that are no UTF-8, or have no caption or path, are in `left_out` by their
    number. Raises InputError if there is no list, NoSplitError if there is no line for the split.
    """

    captioned = True

    def __init__(self, path: str, split: str, holdout: float):
        lists, apart = _lists(pathlib.Path(path).expanduser(), split)
        self.classes = _ONE_CLASS
        self.left_out: dict[str, str] = {}
        self.paths: list[str] = []
        self.captions: list[str] = []
        for file in lists:
            for image, caption in self._lines(file):
                if apart or split == "all" or held_out(image, holdout) == (split != "train"):
                    self.paths.append(os.path.join(file.parent, image))
                    self.captions.append(caption)
        if not self.paths:
            other = "" if apart else f", or another data.holdout than {holdout}"
            raise NoSplitError(f"{path} has no captions for split {split!r}: expected lines of path<TAB>caption{other}")

    def _lines(self, file: pathlib.Path) -> list[tuple[str, str]]:
        try:
            lines = read_regular(file, _BYTES).split(b"\n")
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({error}): expected a list of images and captions") from error
        found, parse = [], _json if file.suffix.lower() == ".jsonl" else _tabbed
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found.append(parse(line.decode().removesuffix("\r")))
            except UnicodeError:
                self.left_out[f"{file}, line {number}"] = "is no UTF-8"
            except (ValueError, RecursionError) as error:
                self.left_out[f"{file}, line {number}"] = str(error)
        return found

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        image = read_regular(self.paths[index], FILE_BYTES)
        return {"image": image, "label": 0, "caption": self.captions[index]}

    def name(self, index: int) -> str:
        return self.paths[index]


def _lists(path: pathlib.Path, split: str) -> tuple[list[pathlib.Path], bool]:
    """The lists of a split, and whether each split has its own."""
    if path.is_file():
        return [path], False
    if not path.is_dir():
        raise InputError(
            f"data.path {str(path)!r} is no list of captions: give a file that ends in {' '.join(ENDINGS)}"
        )
    splits = ("train", "val", "validation", "test") if split == "all" else HELD_OUT.get(split, (split,))
    names = [f"{name}{more}{end}" for name in splits for more in ("", "_list") for end in ENDINGS]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise NoSplitError(f"{path} has no list for split {split!r}: expected {names[0]}, or {names[4]}")
    return (found if split == "all" else found[:1]), True


def _tabbed(line: str) -> tuple[str, str]:
    image, tab, caption = line.partition("\t")
    if not tab or not image.strip():
        raise ValueError("has no path before a tab, expected path<TAB>caption")
    return image, caption.strip()


def _json(line: str) -> tuple[str, str]:
    entry: Any = json.loads(line)
    image, caption = (entry.get(name) for name in ("image", "caption")) if isinstance(entry, dict) else (None, None)
    caption = caption[0] if isinstance(caption, list) and caption else caption
    if not isinstance(image, str) or not image or not isinstance(caption, str):
        raise ValueError('has no image with a caption, expected {"image": "PATH", "caption": "TEXT"}')
    caption.encode()  # half of a pair of escapes is no character
    return image, caption.strip()
