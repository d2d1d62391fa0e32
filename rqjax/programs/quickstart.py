"""Both stages on the embedded images, from nothing to a report: `rqjax quickstart --out runs/quickstart`."""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rqjax import data
from rqjax.api.batches import Batches
from rqjax.api.pictures import picture
from rqjax.api.sampler import sample
from rqjax.data.images import to_float
from rqjax.errors import InputError
from rqjax.evaluation import curve, kept
from rqjax.evaluation.images import Images
from rqjax.flags.quickstart import COUNT, MODEL, OUT, OVERWRITE
from rqjax.interface import Prior, Tokenizer
from rqjax.metrics import book_use, nearest_class
from rqjax.nets.decoding import unrolled
from rqjax.nets.guidance import Guidance
from rqjax.programs.reconstruct import squared_error
from rqjax.programs.train import train
from rqjax.quantize import perplexity, usage
from rqjax.quantize.dynamic import code_count
from rqjax.report import csv_name, write_report
from rqjax.run import devices
from rqjax.run.config import Config, load_file
from rqjax.run.hosts import RESTART
from rqjax.stages.measure import tokenizer_rows
from rqjax.stages.predict import PredictConfig
from rqjax.store import outputs

RUNS = {"rq": ("rqvae", "rqtransformer"), "dq": ("dqvae", "dqvae-fixed", "dqtransformer")}
"""Variants of configs/quickstart.py: the tokenizer first, its prior last."""
HELD_OUT = 500
"""Held-out images for the reconstruction error: enough for its third digit."""
CAPTIONS = {
    "samples.png": "Samples of the prior, one row a class",
    "reconstructions.png": "Held-out images (top), then what 1, 2, ... codes a position make of them",
    "grains.png": "Held-out images (top), their grains (red: four codes a region, blue: one), and the reconstructions",
}


def main(_: Sequence[str]) -> None:
    """Trains both stages of one family, and writes the report."""
    if OUT.value is None:
        raise InputError("quickstart needs --out DIR")
    out = pathlib.Path(OUT.value)
    # the page is written last: without it, the same command goes on
    outputs.checked(str(out / "report.html"), (".html",), overwrite=OVERWRITE.value)
    outputs.checked(str(out / csv_name("report.html")), (".csv",), overwrite=True)
    tokenizer, *_, prior = RUNS[MODEL.value]
    configs = {name: load_file("quickstart", name) for name in RUNS[MODEL.value]}
    devices.use_cores(math.gcd(*(c.data.batch // c.stage.microbatches for c in configs.values())))
    devices.say()
    clock = _Clock()
    stage = configs[prior].stage
    assert isinstance(stage, PredictConfig)
    stage.tokenizer_path = str(out / tokenizer)
    models = {}
    for name, config in configs.items():
        config.preview_every = config.steps + 1  # the report has its own pictures, and each preview compiles a program
        models[name] = _trained(config, out / name)
        clock.lap(f"train_{name}")
    real, held_out = (_images(configs[tokenizer], split) for split in ("train", "test"))
    every = max(len(held_out["image"]) // HELD_OUT, 1)
    shown = held_out["image"][::every][:HELD_OUT]
    summary = _figures(models, shown, out)
    _keep_curve(out / tokenizer, configs[tokenizer], models[tokenizer], shown)
    images, labels = _samples(stage, configs[prior].seed, models[prior], models[tokenizer], out)
    summary["class_accuracy_by_the_7_nearest_real_images"] = {
        "samples": _accuracy(images, labels, real),
        "held_out_real_images": _accuracy(held_out["image"], held_out["label"], real),
    }
    clock.lap("sample_and_measure")
    summary = {"seconds": clock.laps, "peak_memory_gib": round(devices.host_memory(), 2), **summary}
    outputs.write_text(out / "summary.json", json.dumps(summary, indent=1))
    pictures = {caption: out / name for name, caption in CAPTIONS.items() if (out / name).is_file()}
    runs = [out / name for name in configs]
    write_report(out / "report.html", "rqjax quickstart", runs=runs, pictures=pictures, summary=summary)
    print(json.dumps(summary, indent=1))
    print(f"look at {out / 'samples.png'} and {out / 'report.html'}")


def _trained(config: Config, workdir: pathlib.Path) -> Any:
    """The model that `config` trains. Ends the program, as `rqjax train` would, if it is told to leave meanwhile."""
    state = train(config, workdir)
    if int(state.step) < config.steps:
        raise SystemExit(RESTART)
    return state.model


class _Clock:
    """Seconds by name, and in all."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 1)
        self.laps["total"] = round(now - self._start, 1)
        self._last = now


def _images(config: Config, split: str) -> dict[str, np.ndarray]:
    """All images [n h w 3] and labels [n] of a split."""
    settings = dataclasses.replace(config.data, split=split)
    parts = list(data.examples(settings))
    return {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}


def _figures(models: dict[str, Any], images: np.ndarray, out: pathlib.Path) -> dict[str, Any]:
    if "rqvae" in models:
        return _residual_figures(models["rqvae"], images, out)
    return _dynamic_figures(models["dqvae"], models["dqvae-fixed"], images, out)


def _residual_figures(tokenizer: Any, images: np.ndarray, out: pathlib.Path) -> dict[str, Any]:
    """Reconstruction error and code usage by depth on held-out images; writes reconstructions.png."""
    rows = {name: np.asarray(row) for name, row in tokenizer_rows(tokenizer, images).items()}
    _write_rows(out / "reconstructions.png", images, *rows.values())
    codes = jax.jit(lambda t, x: t.encode(to_float(x)))(tokenizer, images)
    of_depth = {name: (codes[..., d], tokenizer.quantizer.sizes[d]) for d, name in enumerate(rows)}
    return {
        "held_out_images": len(images),
        "reconstruction_mean_squared_error": {name: squared_error(row, images) for name, row in rows.items()},
        "code_usage": {name: float(usage(*x)) for name, x in of_depth.items()},
        "code_perplexity": {name: float(perplexity(*x)) for name, x in of_depth.items()},
    }


def _dynamic_figures(tokenizer: Any, fixed: Any, images: np.ndarray, out: pathlib.Path) -> dict[str, Any]:
    """Rate and distortion of held-out images with regions chosen by detail, and by a tokenizer that was trained with
    as many codes at fixed places; writes grains.png.
    """
    encode = jax.jit(lambda t, x: t.encode(to_float(x)))
    rates = {}
    for name, model in {"dynamic": tokenizer, "fixed_checkerboard_trained_for_it": fixed}.items():
        rows = tokenizer_rows(model, images)
        rates[name] = {
            "mean_codes_per_image": float(np.mean(code_count(encode(model, images).grain))),
            "reconstruction_mean_squared_error": squared_error(np.asarray(rows["decoded"]), images),
        }
        if model is tokenizer:
            _write_rows(out / "grains.png", images, *map(np.asarray, rows.values()))
    codes = encode(tokenizer, images)
    return {
        "held_out_images": len(images),
        "rate_and_distortion": rates,
        "code_usage": float(usage(codes.codes, tokenizer.config.codebook_size)),
        "code_perplexity": float(perplexity(codes.codes, tokenizer.config.codebook_size)),
    }


def _keep_curve(run: pathlib.Path, config: Config, model: Tokenizer, images: np.ndarray) -> None:
    """Leaves rate and distortion on held-out images in the run's directory, for every report."""
    batch = {"image": jnp.asarray(images), "counts": jnp.ones(len(images), bool)}
    count = jax.jit(lambda t, b: t.code_hits(t.encode(to_float(b["image"])), b["counts"]))
    hits: dict[str, np.ndarray] = jax.device_get(count(model, batch))
    points = curve.curve(model, [batch])
    kept.keep(run, config.steps, Images(config.data, "test").about(len(images)), points, book_use(hits))


def _samples(
    stage: PredictConfig, seed: int, prior: Prior, tokenizer: Tokenizer, out: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of every class and their labels; writes samples.png and samples.npz."""
    classes = stage.model.condition.choices
    guidance = Guidance(scale=stage.guidance)
    labels = np.repeat(np.arange(classes, dtype=np.int32), COUNT.value)
    batches = Batches.over(most=100)
    prior, tokenizer = batches.everywhere((unrolled(prior), tokenizer))
    images, _ = sample(batches, prior, tokenizer, labels, jax.random.key(seed), stage.draw, guidance=guidance)
    outputs.write_arrays(out / "samples.npz", arr_0=images, label=labels)
    shown = images.reshape(classes, COUNT.value, *images.shape[1:])[:, :12]
    outputs.write_picture(out / "samples.png", picture(shown.reshape(-1, *images.shape[1:]), shown.shape[1]))
    return images, labels


def _write_rows(path: pathlib.Path, *rows: np.ndarray) -> None:
    """A picture of ten of the images, one row for each of `rows`."""
    shown = np.linspace(0, len(rows[0]) - 1, 10).astype(int)
    outputs.write_picture(path, picture(np.concatenate([row[shown] for row in rows]), len(shown)))


def _accuracy(images: np.ndarray, labels: np.ndarray, real: dict[str, np.ndarray]) -> float:
    """The share of images to which their nearest neighbours among `real` ones give their label."""
    classify = jax.jit(nearest_class, static_argnames=("classes",))
    found = classify(images, real["image"], real["label"], classes=int(real["label"].max()) + 1)
    return float(np.mean(np.asarray(found) == labels))
