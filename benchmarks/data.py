"""Images a second that a core brings to 256x256, for each source and beside PyTorch's DataLoader, and by decoders.

    PYTHONPATH=. .venv/bin/python benchmarks/data.py [--torch PYTHON] [--images 300] [--runs RUN ...]

Makes JPEGs of about 400x500 and reads them as ImageNet's recipe does: the shorter side to 256, a random crop, a mirror
image by chance. One thread each, by turns, and the median of all turns; seconds are the processor's, so that other
programs on the machine count for little. PYTHON is one that has torch and Pillow. simplejpeg is measured where it is
installed. For each RUN, the share of its steps that waited for data. Prints tables and asserts nothing.
"""

import argparse
import importlib
import io
import json
import pathlib
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from rqjax.data import DataConfig, augment, rows_of_batches
from rqjax.data.prepare import prepare, splits_of
from rqjax.run.ledger import read_ledger

SIZE, BATCH, TURNS = 256, 50, 5
Rates = dict[str, float]
"""Images a second by name."""


def jpeg(generator: np.random.Generator) -> bytes:
    """A photograph's stand-in: smooth colours, edges and grain, 60 to 100 kB."""
    height, width = generator.integers(380, 420), generator.integers(480, 520)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse = coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)
    grain = generator.normal(0, 8, (height, width, 1)) + 40 * (generator.random((height, width, 1)) > 0.995)
    out = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(out, "jpeg", quality=90)
    return out.getvalue()


def sources(folder: pathlib.Path, images: Sequence[bytes]) -> dict[str, dict[str, Any]]:
    """Each source's place, with the same images in it."""
    (folder / "images").mkdir()
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "0.tar", "w") as tar:
        for k, image in enumerate(images):
            (folder / "images" / f"{k:05}.jpg").write_bytes(image)
            for ending, content in (("jpg", image), ("txt", b"a caption")):
                member = tarfile.TarInfo(f"{k:05}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    lines = "".join(f"images/{k:05}.jpg\ta caption\n" for k in range(len(images)))
    (folder / "list.tsv").write_text(lines)
    found = {
        "image folder": {"name": "folder", "path": str(folder / "images")},
        "list with captions": {"name": "captions", "path": str(folder / "list.tsv")},
        "WebDataset tars": {"name": "tars", "path": str(folder / "tars")},
    }
    splits = splits_of(settings(found["image folder"]))
    for name, side in {"ArrayRecord": 0, f"ArrayRecord, --side {SIZE}": SIZE}.items():
        prepare(splits, folder / f"set{side}", per_shard=4096, threads=1, side=side)
        found[name] = {"name": "folder", "path": str(folder / f"set{side}")}
    return found


def settings(place: dict[str, Any]) -> DataConfig:
    return DataConfig(
        **place, holdout=0.0, resize=SIZE, size=SIZE, crop="random", flip=True, batch=BATCH, threads=1, workers=0
    )


def read(place: dict[str, Any], count: int) -> float:
    """Images a second of the processor, of `count` batches after the first."""
    with rows_of_batches(settings(place), range(BATCH)) as stream:
        next(stream)
        start = time.process_time()
        for _ in range(count):
            next(stream)
        return BATCH * count / (time.process_time() - start)


def pytorch(python: str, folder: pathlib.Path) -> Rates:
    """Those of a DataLoader over the image folder, in a process of that Python."""
    script = pathlib.Path(__file__).with_name("torch_loader.py")
    words = [python, str(script), str(folder), str(SIZE), str(BATCH), "2"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return {f"DataLoader of PyTorch, {name}": rate for name, rate in json.loads(said).items()}


def decoders() -> dict[str, Callable[[bytes], Image.Image]]:
    """Ways from a JPEG to an image that is then scaled."""
    found: dict[str, Callable[[bytes], Image.Image]] = {
        "Pillow (as rqjax)": lambda data: augment.decode(data, 2 * SIZE)
    }
    try:
        simplejpeg: Any = importlib.import_module("simplejpeg")  # no dependency
    except ImportError:
        return found
    fast = {"fastdct": True, "fastupsample": True}
    whole = {"simplejpeg": lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))}
    return found | whole | {"simplejpeg, fast": lambda data: Image.fromarray(simplejpeg.decode_jpeg(data, **fast))}


def decoding(decode: Callable[[bytes], Image.Image], images: Sequence[bytes]) -> float:
    """Images a second of the processor that are decoded and scaled."""
    start = time.process_time()
    for image in images:
        augment.scale(decode(image), SIZE, "bilinear")
    return len(images) / (time.process_time() - start)


def table(title: str, turns: Sequence[Rates]) -> Table:
    """The median of all turns of each, and how many times the first DataLoader's, if there is one."""
    medians = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    base = next((rate for name, rate in medians.items() if name.startswith("DataLoader")), None)
    found = Table(title, "images a second and core", *([] if base is None else ["times the DataLoader's, uint8"]))
    for name, rate in medians.items():
        found.add_row(name, f"{rate:.0f}", *([] if base is None else [f"{rate / base:.2f}"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has torch and Pillow")
    parser.add_argument("--images", type=int, default=300, help="JPEGs that are made (300)")
    parser.add_argument("--runs", nargs="*", default=[], type=pathlib.Path, help="run directories")
    given, generator, console = parser.parse_args(), np.random.default_rng(0), Console()
    images = [jpeg(generator) for _ in range(max(given.images, BATCH))]
    with tempfile.TemporaryDirectory() as name:
        folder, count = pathlib.Path(name), 2 * len(images) // BATCH
        places = sources(folder, images)
        console.print(f"{len(images)} JPEGs of {np.mean([*map(len, images)]):,.0f} bytes")
        turns: list[Rates] = []
        for _ in range(TURNS):
            theirs = pytorch(given.torch, folder / "images") if given.torch else {}
            turns.append({source: read(place, count) for source, place in places.items()} | theirs)
    console.print(table("source", turns))
    ways = decoders()
    turns = [{way: decoding(decode, images) for way, decode in ways.items()} for _ in range(TURNS)]
    console.print(table("decoder, and scaling", turns))
    for run in given.runs:
        ledger = read_ledger(run)
        waited, steps = (ledger.get(use, 0.0) for use in ("waiting for data", "steps"))
        console.print(f"{run}: {waited / max(waited + steps, 1e-9):.1%} of the time for steps was waiting for data")


if __name__ == "__main__":
    main()
