"""The page's look at one's own images: their codes, grain maps, and what the first levels of codes make of them."""

import pathlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int, UInt8

from rqjax.api.filmstrip import level_names
from rqjax.api.inputs import FoundCodes
from rqjax.api.loaded import LoadedTokenizer
from rqjax.demo.failures import in_one_line
from rqjax.errors import InputError, printable
from rqjax.quantize import dynamic

MOST = 8
"""Images of one upload."""
BYTES = 16 * 2**20
"""Of a file, and of all files of one upload."""
Picture: TypeAlias = UInt8[np.ndarray, "high wide 3"]


def examine(tokenizer: LoadedTokenizer, paths: Sequence[str] | None) -> tuple[Picture | None, str, str]:
    """A picture of the images in files beside their partial decodes, their codes as text, and a line of text.

    Of what cannot be read there is the line alone, with the name of the file.
    """
    try:
        images = np.stack([_read(tokenizer, pathlib.Path(path)) for path in _few(paths)])
        strip = tokenizer.filmstrip(images, progress=False)
        text = written(tokenizer.encode(images, progress=False), level_names(tokenizer.model))
        return np.asarray(strip.grid()), text, repr(strip).replace("\n", "; ")
    except Exception as error:
        return None, "", in_one_line(error)


def _few(paths: Sequence[str] | None) -> Sequence[str]:
    if not paths:
        raise InputError("no file has come: choose an image")
    if len(paths) > MOST:
        raise InputError(f"{len(paths)} files: choose at most {MOST} at once")
    return paths


def _read(tokenizer: LoadedTokenizer, path: pathlib.Path) -> UInt8[np.ndarray, "size size 3"]:
    """The image in a file, as large as the model's. Raises InputError with the file's name for what is none."""
    name = printable(path.name, 60)
    try:
        if path.stat().st_size > BYTES:
            raise InputError(f"it has more than {BYTES // 2**20} MiB")
        return tokenizer.fitted(path.read_bytes())
    except (InputError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: {reason}") from None


def written(codes: FoundCodes, names: Sequence[str]) -> str:
    """The codes of each image as a table of numbers for each level (RQ), or of the codes and the grains (DQ)."""
    count = len(codes.grain if isinstance(codes, dynamic.Codes) else codes)
    parts = []
    for i in range(count):
        if isinstance(codes, dynamic.Codes):
            tables = _of_grains(np.asarray(codes.codes[i]), np.asarray(codes.grain[i]), names)
        else:
            tables = {name: _table(codes[i, :, :, depth].astype(str)) for depth, name in enumerate(names)}
        parts += [f"image {i + 1}, {head}\n{table}" for head, table in tables.items()]
    return "\n\n".join(parts)


def _of_grains(codes: Int[np.ndarray, "H W"], grain: Int[np.ndarray, "h w"], names: Sequence[str]) -> dict[str, str]:
    """The grains of the regions, and each code once: at the first of the cells that it stands for."""
    region = len(codes) // len(grain)
    block = (region >> grain).repeat(region, 0).repeat(region, 1)  # cells a side that a code stands for
    row, column = np.indices(codes.shape)
    first = (row % block == 0) & (column % block == 0)
    known = ", ".join(f"{i} {name.removeprefix('+ ')}" for i, name in enumerate(names))
    shown = np.where(first, codes.astype(str), ".")
    return {f"grains ({known})": _table(grain.astype(str)), "codes": _table(shown)}


def _table(words: np.ndarray) -> str:
    wide = max(len(word) for word in words.flat)
    return "\n".join(" ".join(f"{word:>{wide}}" for word in row) for row in words)
