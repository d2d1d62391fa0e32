"""Makes a set of images into a few large files, with a manifest, that training reads fast on any disk:

    .venv/bin/python launch/prepare.py --images FOLDER --out data/mine
    .venv/bin/rqjax train --config photos:64 --workdir runs/mine --config.data.path=data/mine

FOLDER is flat, or has a sub-folder for each class, or train/ and val/ above those. Class folders that are called by
WordNet ids get readable names by a list of synsets beside them. Or --captions LIST (path<TAB>caption, or JSON lines),
--tars FOLDER (WebDataset), --lmdb FOLDER (LSUN), --tfds NAME (prepared as array_record, in --data_dir). Images keep
their bytes, or with --side 256 are scaled once, for a training with data.resize=256, and stored as JPEGs of quality 95;
what cannot be decoded is left out, and listed here and in the manifest. Without folders of splits a share (--holdout)
becomes "validation". The same command goes on after an end half-way; a set that is there is never written over.
"""

import argparse
import os
import pathlib
import sys

from tqdm import tqdm

from rqjax.data.config import DataConfig
from rqjax.data.prepare import prepare, splits_of
from rqjax.data.walk import skipped
from rqjax.errors import InputError, RunError
from rqjax.store.lock import locked

PER_SHARD = 4096


def flags() -> argparse.Namespace:
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", metavar="FOLDER", help="image files, or a sub-folder of them for each class")
    source.add_argument(
        "--captions", metavar="LIST", help="images with captions, or a folder with a list for each split"
    )
    source.add_argument("--tars", metavar="FOLDER", help="tar files of a WebDataset")
    source.add_argument("--lmdb", metavar="FOLDER", help="a data base of LSUN, or a folder of them")
    source.add_argument("--tfds", metavar="NAME", help="a set of TensorFlow Datasets, prepared as array_record")
    parser.add_argument("--data_dir", default="", help="where TFDS prepared it; its default folder if not given")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="a folder that is empty, or not there")
    parser.add_argument(
        "--holdout", type=float, default=0.05, help="share held out where no folders of splits are (0.05)"
    )
    parser.add_argument("--side", type=int, default=0, help="pixels of the shorter side of images that are larger (0)")
    parser.add_argument("--per_shard", type=int, default=PER_SHARD, help=f"images of a file ({PER_SHARD})")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="files made at once (one for each core)")
    return parser.parse_args()


def described(given: argparse.Namespace) -> DataConfig:
    """The source that the flags name."""
    names = {"images": "folder", "captions": "captions", "tars": "tars", "lmdb": "lmdb", "tfds": "tfds"}
    flag = next(flag for flag in names if getattr(given, flag) is not None)
    value = getattr(given, flag)
    place = {"dataset": value, "path": given.data_dir} if flag == "tfds" else {"path": value}
    return DataConfig(name=names[flag], **place, holdout=given.holdout, synsets=True, size=1, batch=1)


def main() -> None:
    """Prepares the set, and says what it has."""
    given = flags()
    if given.per_shard < 1 or given.threads < 1:
        raise InputError(f"--per_shard {given.per_shard} and --threads {given.threads}: expected 1 at least")
    if given.side < 0:
        raise InputError(f"--side {given.side}: expected pixels, or 0 for images as they are")
    splits = splits_of(described(given))
    with locked(given.out), tqdm(total=sum(map(len, splits.values())), unit="image", delay=1) as bar:
        sizes = {"per_shard": given.per_shard, "threads": given.threads, "side": given.side}
        manifest = prepare(splits, given.out, **sizes, seen=bar.update)
    print("\n".join(skipped(manifest.left_out)), end="\n" if manifest.left_out else "")
    counts = ", ".join(f"{manifest.count(split):,} in {split}" for split in manifest.splits)
    print(f"{given.out}: images: {counts}; classes: {len(manifest.classes)}")


if __name__ == "__main__":
    try:
        main()
    except (InputError, RunError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("prepare: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
