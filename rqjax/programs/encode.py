"""A tokenizer once over a set of images: `rqjax encode --tokenizer runs/a --data data/mine --out data/mine_latents`."""

import dataclasses
import pathlib
from collections.abc import Sequence

from tqdm import tqdm

from rqjax import data
from rqjax.api.latents import Encoder
from rqjax.data import DataConfig
from rqjax.data.prepare import splits_of
from rqjax.data.shards import make
from rqjax.errors import InputError, printable
from rqjax.flags.encode import (
    BATCH,
    CODES,
    CROP,
    CROPS,
    DATA,
    FLIP,
    HOLDOUT,
    NAME,
    OUT,
    PER_SHARD,
    SEED,
    THREADS,
    TOKENIZER,
)
from rqjax.run import devices
from rqjax.run.directory import Run
from rqjax.store.lock import locked


def main(_: Sequence[str]) -> None:
    """Encodes the images that the flags name."""
    if TOKENIZER.value is None or OUT.value is None:
        raise InputError("encode needs --tokenizer DIR and --out DIR")
    run, out = Run.open(TOKENIZER.value).tokenizer(), pathlib.Path(OUT.value).expanduser()
    settings = _settings(run)
    splits = splits_of(settings)
    devices.say()
    encoder = Encoder(run, settings, vectors=not CODES.value, crops=CROPS.value, flip=FLIP.value)
    with locked(out), tqdm(total=sum(map(len, splits.values())), unit="image", delay=1, disable=None) as bar:
        manifest = make(
            splits,
            out,
            encoder.records,
            per_shard=PER_SHARD.value,
            threads=1,  # the devices take one batch after the other; images are decoded ahead by threads of their own
            seen=bar.update,
            latents=encoder.latents,
        )
    print("\n".join(data.skipped(manifest.left_out)), end="\n" if manifest.left_out else "")
    counts = ", ".join(f"{manifest.count(split):,} in {split}" for split in manifest.splits)
    found, shape = encoder.latents, "x".join(map(str, encoder.latents.shape))
    print(f"{out}: images: {counts}; {'vectors' if found.vectors else 'codes'} {shape}, views: {found.views}")
    print(printable(f"train on them with --config.data.name=latents --config.data.path={out}"))


def _settings(run: Run) -> DataConfig:
    """The images, scaled as the tokenizer saw them."""
    theirs, size = run.config.data, run.tokenizer_config.resolution
    resize = theirs.resize if theirs.size == size else size
    return dataclasses.replace(
        theirs,
        name=NAME.value if DATA.value else "fashion_mnist",
        path=DATA.value or "",
        holdout=HOLDOUT.value,
        text_length=0,
        size=size,
        resize=resize,
        crop=CROP.value if CROPS.value > 1 else "center",
        batch=BATCH.value,
        threads=THREADS.value,
        seed=SEED.value,
        on_corrupt="skip",
    )
