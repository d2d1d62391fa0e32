"""Makes a small set of images with captions: emoji, from two npm packages (see configs/emoji.py).

    .venv/bin/python examples/emoji_set.py --images fluent/assets --names emojibase/en/data.json --out data/emoji

An emoji and its variants (tones of skin, genders, families of one first sign) are near-duplicates: all of them are
either in train.tsv or in validation.tsv, decided by a hash of the base.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from rqjax.data.augment import decode, scale
from rqjax.data.sources import held_out

SIDE = 64
HOLDOUT = 0.08
JOINER = "200d"
TONES = {f"1f3f{k}" for k in "bcdef"}
VARIANT_SELECTOR = "fe0f"


def key(code: str) -> tuple[str, ...]:
    """The code points of an emoji ("1F3C3-200D-2640-FE0F"), in one spelling."""
    points = [point.lower().lstrip("0") for point in code.split("-")]
    return tuple(point for point in points if point != VARIANT_SELECTOR)


def base(points: tuple[str, ...]) -> str:
    """What an emoji is a variant of: its first sign, without a tone of skin."""
    first = points[: points.index(JOINER)] if JOINER in points else points
    return "-".join(point for point in first if point not in TONES)


def captions(names: pathlib.Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """The emoji that emojibase's data.json names, with their names."""
    entries: list[dict[str, Any]] = json.loads(names.read_text(encoding="utf-8"))
    for entry in entries:
        for variant in (entry, *entry.get("skins", ())):
            yield key(variant["hexcode"]), variant["label"]


def main(images: pathlib.Path, names: pathlib.Path, out: pathlib.Path, holdout: float = HOLDOUT) -> dict[str, int]:
    """Writes the images at 64x64 on white, and a list for each split. Returns the numbers of their lines."""
    (out / "images").mkdir(parents=True)
    files = {key(path.stem): path for path in sorted(images.glob("*.webp"))}
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    for points, caption in captions(names):
        if (path := files.pop(points, None)) is not None:
            image = scale(decode(path.read_bytes()), SIDE, "lanczos")
            Image.fromarray(np.asarray(image)).save(out / "images" / f"{'-'.join(points)}.png")
            split = "validation" if held_out(base(points), holdout) else "train"
            lines[split].append(f"images/{'-'.join(points)}.png\t{caption}\n")
    for split, found in lines.items():
        (out / f"{split}.tsv").write_text("".join(found), encoding="utf-8")
        print(f"{out}/{split}.tsv: {len(found)} captions")
    return {split: len(found) for split, found in lines.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("images", "names", "out"):
        parser.add_argument(f"--{flag}", type=pathlib.Path, required=True)
    main(**vars(parser.parse_args()))
