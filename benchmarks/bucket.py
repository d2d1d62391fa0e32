"""Images a second from a prepared set that lies in a bucket: record by record, as through a mount, and from a copy.

    PYTHONPATH=. .venv/bin/python benchmarks/bucket.py [--wait 0.03] [--stream 50]

The bucket is a stand-in: every read waits so many seconds for its first byte, then gets so many MB a second, and reads
side by side do not slow each other down. "mounted" reads single records, as a mount without a cache of files does.
"copied" has rqjax.data.bucket copy the set (files side by side, 4 MiB a read) and reads the copy. Records are JPEGs
whose shorter side is 256; crops have 256. Prints a table and asserts nothing.
"""

import argparse
import io
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import register_implementation
from PIL import Image
from rich.console import Console
from rich.table import Table

from rqjax.data import DataConfig, batches
from rqjax.data.bucket import at_hand
from rqjax.data.prepare import prepare, splits_of
from rqjax.data.records import Records
from rqjax.data.sources import Source
from rqjax.mesh import make_mesh

IMAGES, SIDE, BATCH = 1024, 256, 16
THREADS = (4, 8, 16, 32, 64)


class Far(Records):
    """A set whose every record is a read of its own, from afar."""

    def __init__(self, path: str, wait: float, stream: float):
        super().__init__(path, "train")
        self.wait, self.stream = wait, stream

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = super().__getitem__(index)
        time.sleep(self.wait + len(record["image"]) / self.stream)
        return record


def bucket_in(root: pathlib.Path, wait: float, stream: float) -> None:
    """Makes gs://NAME the folder NAME of `root`, read from afar."""

    class File(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            time.sleep(wait + len(found) / stream)
            return found

    class Store(LocalFileSystem):
        protocol = ("gcs", "gs")

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            name = str(path).removeprefix("gs://")
            return name.rstrip("/") if name.startswith("/") else str(root / name)

        def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> Any:
            return File(self._strip_protocol(path), mode.replace("b", ""))

    for name in Store.protocol:
        register_implementation(name, Store, clobber=True)


def images(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """JPEGs of 256x320: smooth colours with grain."""
    generator = np.random.default_rng(0)
    for k in range(IMAGES):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((320, SIDE))
        pixels = np.asarray(coarse) + generator.normal(0, 8, (SIDE, 320, 1))
        path = folder / f"{k:05}.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
        yield path


def rate(source: Source, path: str, threads: int) -> float:
    """Images a second, after as many batches as the threads have made ahead."""
    config = DataConfig(
        name="folder", path=path, resize=SIDE, size=SIDE, crop="random", flip=True, batch=BATCH, threads=threads
    )
    with batches(config, make_mesh("1x1"), source=source) as stream:
        for _ in range(2 * threads):
            next(stream)
        start = time.perf_counter()
        for _ in range(4 * threads):
            next(stream)
        return BATCH * 4 * threads / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wait", type=float, default=0.03, help="seconds until the first byte of a read (0.03)")
    parser.add_argument("--stream", type=float, default=50.0, help="MB a second of one read (50)")
    given = parser.parse_args()
    wait, stream, table = given.wait, given.stream * 1e6, Table("images a second", *map(str, THREADS))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "images").mkdir()
        size = sum(path.stat().st_size for path in images(folder / "images"))
        source = DataConfig(name="folder", path=str(folder / "images"), holdout=0.0, size=SIDE, batch=BATCH)
        prepare(splits_of(source), folder / "cloud" / "set", per_shard=IMAGES // 16, threads=2)
        bucket_in(folder / "cloud", wait, stream)
        far = Far(str(folder / "cloud" / "set"), wait, stream)
        table.add_row("mounted", *(f"{rate(far, str(far.folder), threads):.0f}" for threads in THREADS))
        begin = time.perf_counter()
        copy = at_hand("gs://set", str(folder / "cache"))
        seconds = time.perf_counter() - begin
        table.add_row("copied", *(f"{rate(Records(copy, 'train'), copy, threads):.0f}" for threads in THREADS))
    console = Console()
    console.print(
        f"{IMAGES} JPEGs of {size / IMAGES:,.0f} bytes in 16 files; a read waits {wait:g} s, then {stream:,.0f} B/s"
    )
    console.print(f"copied once in {seconds:.2f} s: {IMAGES / seconds:.0f} images a second; columns: data.threads")
    console.print(table)


if __name__ == "__main__":
    main()
