"""Both stages on the embedded images, from nothing to a report: `rqjax quickstart --out runs/quickstart`."""

import dataclasses
import json
import pathlib
import resource
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from rqjax import data
from rqjax.config import Config, load_file
from rqjax.errors import InputError
from rqjax.images import enlarge, tile, to_float, write_png
from rqjax.log import read_metrics
from rqjax.models.rqsampler import SamplingOptions
from rqjax.quantize.codebook import perplexity, usage
from rqjax.reconstruct import reconstructions
from rqjax.report import write_report
from rqjax.sample import picture, sample
from rqjax.train import train

FLAGS = flags.FlagValues()
OUT = flags.DEFINE_string(
    "out", None, "Where the runs, the pictures, summary.json and report.html go.", flag_values=FLAGS
)
COUNT = flags.DEFINE_integer("count", 40, "Samples per class.", lower_bound=1, flag_values=FLAGS)

HELD_OUT = 500
"""Held-out images for the reconstruction error: enough for its third digit."""


def main(_: Sequence[str]) -> None:
    """Runs what the flags describe."""
    if OUT.value is None:
        raise InputError("quickstart needs --out DIR")
    out = pathlib.Path(OUT.value)
    clock = _Clock()
    configs = {name: load_file("quickstart", name) for name in ("rqvae", "rqtransformer", "classifier")}
    configs["rqtransformer"].stage.tokenizer_path = str(out / "rqvae")
    models = {}
    for name, config in configs.items():
        models[name] = train(config, out / name).model
        clock.lap(f"train_{name}")
    held_out = _held_out(configs["rqvae"])
    summary = _tokenizer_figures(models["rqvae"], held_out, out) | _sample_figures(configs, models, held_out, out)
    clock.lap("sample_and_measure")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    summary = {"seconds": clock.laps, "peak_memory_gib": round(memory, 2), **summary}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    pictures = {
        "Samples of the prior, one row a class": out / "samples.png",
        "Held-out images (top), then their reconstruction from 1, 2, ... codes a position": out / "reconstructions.png",
    }
    runs = {name: read_metrics(out / name) for name in configs}
    write_report(out / "report.html", "rqjax quickstart", runs=runs, pictures=pictures, summary=summary)
    print(json.dumps(summary, indent=1))
    print(f"look at {out / 'samples.png'} and {out / 'report.html'}")


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


def _held_out(config: Config) -> dict[str, np.ndarray]:
    """All held-out images [n h w 3] and labels [n]."""
    settings = dataclasses.replace(config.data, split="test")
    parts = list(data.examples(settings))
    return {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}


def _tokenizer_figures(tokenizer: Any, held_out: dict[str, np.ndarray], out: pathlib.Path) -> dict[str, Any]:
    """Reconstruction error and code usage by depth on held-out images; writes reconstructions.png."""
    every = len(held_out["image"]) // min(HELD_OUT, len(held_out["image"]))
    images = held_out["image"][::every][:HELD_OUT]
    rows = reconstructions(tokenizer, images)
    shown = np.linspace(0, len(images) - 1, 10).astype(int)
    table = np.stack([x[shown] for x in (images, *rows.values())])
    write_png(out / "reconstructions.png", enlarge(tile(table), max(1, 64 // images.shape[1])))
    errors = {name: float(np.mean((np.float64(row) - images) ** 2)) / 255**2 for name, row in rows.items()}
    codes = jax.jit(lambda t, x: t.encode(to_float(x)))(tokenizer, images)
    sizes = [book.embed.shape[0] for book in tokenizer.codebooks]
    used, effective = {}, {}
    for d in range(codes.shape[-1]):
        size = sizes[min(d, len(sizes) - 1)]
        used[f"depth {d + 1}"] = float(usage(codes[..., d], size))
        effective[f"depth {d + 1}"] = float(perplexity(codes[..., d], size))
    return {
        "held_out_images": len(images),
        "reconstruction_mean_squared_error": errors,
        "code_usage": used,
        "code_perplexity": effective,
    }


def _sample_figures(
    configs: dict[str, Config], models: dict[str, Any], held_out: dict[str, np.ndarray], out: pathlib.Path
) -> dict[str, Any]:
    """Class accuracy of samples beside that of real images; writes samples.png and samples.npz."""
    stage = configs["rqtransformer"].stage
    classes = stage.model.classes
    labels = np.repeat(np.arange(classes, dtype=np.int32), COUNT.value)
    options = SamplingOptions(temperature=stage.temperature, top_k=stage.top_k or None, top_p=stage.top_p)
    key = jax.random.key(configs["rqtransformer"].seed)
    parts = sample(models["rqtransformer"], models["rqvae"], labels, key, 100, options)
    images = np.concatenate(list(parts))
    np.savez_compressed(out / "samples.npz", image=images, label=labels)
    shown = images.reshape(classes, COUNT.value, *images.shape[1:])[:, :12]
    write_png(out / "samples.png", picture(shown.reshape(-1, *images.shape[1:]), shown.shape[1]))
    judge = models["classifier"]
    return {
        "class_accuracy_by_a_small_classifier_trained_on_real_images": {
            "samples": _accuracy(judge, images, labels),
            "held_out_real_images": _accuracy(judge, held_out["image"], held_out["label"]),
        }
    }


def _accuracy(judge: Any, images: np.ndarray, labels: np.ndarray) -> float:
    found = jax.jit(lambda judge, image: judge.classify(to_float(image)))
    parts = [np.asarray(found(judge, jnp.asarray(images[i : i + 200]))) for i in range(0, len(images), 200)]
    return float(np.mean(np.concatenate(parts) == labels))
