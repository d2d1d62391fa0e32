"""Both stages on the embedded images, from nothing to a report: `rqjax quickstart --out runs/quickstart`."""

import dataclasses
import json
import math
import pathlib
import resource
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rqjax import data
from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError
from rqjax.flags.quickstart import COUNT, MODEL, OUT, OVERWRITE
from rqjax.interface import Prior, Tokenizer
from rqjax.programs.reconstruct import squared_error
from rqjax.programs.sample import picture, sample
from rqjax.programs.train import train
from rqjax.quantize import perplexity, usage
from rqjax.quantize.dynamic import code_count
from rqjax.report import write_report
from rqjax.run import devices
from rqjax.run.config import Config, load_file
from rqjax.run.hosts import RESTART
from rqjax.stages.measure import tokenizer_rows
from rqjax.stages.predict import PredictConfig
from rqjax.store import outputs

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
    tokenizer, prior = f"{MODEL.value}vae", f"{MODEL.value}transformer"
    configs = {name: load_file("quickstart", name) for name in (tokenizer, prior, "classifier")}
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
    held_out = _held_out(configs[tokenizer])
    measure = _residual_figures if MODEL.value == "rq" else _dynamic_figures
    every = max(len(held_out["image"]) // HELD_OUT, 1)
    summary = measure(models[tokenizer], held_out["image"][::every][:HELD_OUT], out)
    images, labels = _samples(stage, configs[prior].seed, models[prior], models[tokenizer], out)
    judge = models["classifier"]
    summary["class_accuracy_by_a_small_classifier_trained_on_real_images"] = {
        "samples": _accuracy(judge, images, labels),
        "held_out_real_images": _accuracy(judge, held_out["image"], held_out["label"]),
    }
    clock.lap("sample_and_measure")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    summary = {"seconds": clock.laps, "peak_memory_gib": round(memory, 2), **summary}
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


def _held_out(config: Config) -> dict[str, np.ndarray]:
    """All held-out images [n h w 3] and labels [n]."""
    settings = dataclasses.replace(config.data, split="test")
    parts = list(data.examples(settings))
    return {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}


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


def _dynamic_figures(tokenizer: Any, images: np.ndarray, out: pathlib.Path) -> dict[str, Any]:
    """Rate and distortion of held-out images with regions chosen by detail and without; writes grains.png."""
    codes = jax.jit(lambda t, x: t.encode(to_float(x)))(tokenizer, images)
    decode = jax.jit(lambda t, x, grain: to_uint8(t.reconstruct_as(to_float(x), grain)))
    board = jnp.indices(codes.grain.shape[1:]).sum(0) % 2
    choices = {
        "dynamic": codes.grain,
        "same_length_on_a_fixed_checkerboard": jnp.broadcast_to(board, codes.grain.shape),
        "fixed_length_all_coarse": jnp.zeros_like(codes.grain),
        "fixed_length_all_fine": jnp.ones_like(codes.grain),
    }
    rows = {name: np.asarray(decode(tokenizer, images, grain)) for name, grain in choices.items()}
    grains = jax.jit(lambda t, x, codes: to_uint8(t.code_maps(to_float(x), codes)["grains"]))(tokenizer, images, codes)
    _write_rows(out / "grains.png", images, np.asarray(grains), rows["dynamic"])
    return {
        "held_out_images": len(images),
        "rate_and_distortion": {
            name: {
                "mean_codes_per_image": float(np.mean(code_count(choices[name]))),
                "reconstruction_mean_squared_error": squared_error(row, images),
            }
            for name, row in rows.items()
        },
        "code_usage": float(usage(codes.codes, tokenizer.config.codebook_size)),
        "code_perplexity": float(perplexity(codes.codes, tokenizer.config.codebook_size)),
    }


def _samples(
    stage: PredictConfig, seed: int, prior: Prior, tokenizer: Tokenizer, out: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of every class and their labels; writes samples.png and samples.npz."""
    classes = stage.model.condition.size
    labels = np.repeat(np.arange(classes, dtype=np.int32), COUNT.value)
    images = np.concatenate(list(sample(prior, tokenizer, labels, jax.random.key(seed), 100, stage.draw)))
    outputs.write_arrays(out / "samples.npz", arr_0=images, label=labels)
    shown = images.reshape(classes, COUNT.value, *images.shape[1:])[:, :12]
    outputs.write_picture(out / "samples.png", picture(shown.reshape(-1, *images.shape[1:]), shown.shape[1]))
    return images, labels


def _write_rows(path: pathlib.Path, *rows: np.ndarray) -> None:
    """A picture of ten of the images, one row for each of `rows`."""
    shown = np.linspace(0, len(rows[0]) - 1, 10).astype(int)
    outputs.write_picture(path, picture(np.concatenate([row[shown] for row in rows]), len(shown)))


def _accuracy(judge: Any, images: np.ndarray, labels: np.ndarray) -> float:
    classify = jax.jit(lambda judge, image: judge.classify(to_float(image)))
    parts = [np.asarray(classify(judge, jnp.asarray(images[i : i + 200]))) for i in range(0, len(images), 200)]
    return float(np.mean(np.concatenate(parts) == labels))
