"""A classifier of a data set's own classes, as the judge where Inception's weights are not at hand."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax import data
from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.evaluation.images import Images
from rqjax.nets.classifier import Classifier, ClassifierConfig
from rqjax.optim import OptimizerConfig
from rqjax.run.config import Config, to_dict
from rqjax.run.dataset import write_class_names
from rqjax.run.directory import Run
from rqjax.run.ledger import duration
from rqjax.run.skips import unguarded
from rqjax.stages.classify import Classify, ClassifyConfig
from rqjax.store import model_folder

STEPS, BATCH, WIDTH, RATE = 400, 128, 24, 4e-3
"""Of the training: half a minute for small images on a CPU, and then 84 % of Fashion-MNIST's held-out ones right."""


def settings(images: DataConfig, classes: int) -> Config:
    """The training of a small classifier on the training images of a run."""
    optimizer = OptimizerConfig(learning_rate=RATE, warmup_steps=20, schedule="cosine")
    stage = ClassifyConfig(model=ClassifierConfig(width=WIDTH, classes=classes), optimizer=optimizer)
    seen = dataclasses.replace(images, batch=BATCH, shuffle=True, seed=0)
    return Config(stage=stage, data=seen, steps=STEPS)


def classes_of(images: DataConfig) -> tuple[str, ...]:
    """The names of the classes of training images; none where there are not two. Raises InputError for no images."""
    if images.name == "latents":
        raise InputError(f"{images.path} holds latents")
    names = data.open_source(images).classes
    return tuple(names) if len(names) > 1 else ()


def trained(config: Config, mesh: Mesh, say: Callable[[str], None]) -> tuple[Classifier, dict[str, object]]:
    """The classifier that `config` trains, and what is to be said of it. The same on every call on one machine."""
    assert isinstance(config.stage, ClassifyConfig)
    say(f"training a classifier of {config.stage.model.classes} classes, {config.steps} steps ...")
    since, stage, whole = time.perf_counter(), config.stage.build(config.steps), NamedSharding(mesh, P())
    key = jax.random.key(config.seed)
    state = jax.device_put(jax.jit(stage.init)(key), whole)
    step_fn = jax.jit(unguarded(stage.propose), donate_argnums=0)
    with jax.set_mesh(mesh), data.batches(config.data, mesh) as batches:
        for step, batch in zip(range(config.steps), batches, strict=False):
            state, _ = step_fn(state, None, batch, jax.random.fold_in(key, step))
    accuracy = _accuracy(stage, state, config, mesh)
    seconds = time.perf_counter() - since
    say(f"trained the classifier in {duration(seconds)}: {accuracy:.1%} of the held-out images right")
    about: dict[str, object] = {"trained_here": to_dict(config), "accuracy_on_held_out_images": accuracy}
    return state.model, about


def _accuracy(stage: Classify, state: Any, config: Config, mesh: Mesh) -> float:
    """The share of held-out images whose class it finds; NaN if none are held out."""
    if config.data.split in (config.eval_split, "all"):
        return float("nan")
    evaluate, sums = jax.jit(stage.evaluate), np.zeros(2)
    for batch in Images(config.data, config.eval_split).batches(config.data.batch, mesh):
        found = evaluate(state, None, batch, jax.random.key(0))
        sums += [float(found["accuracy"]), float(found["images"])]
    return float(sums[0] / max(sums[1], 1))


def opened(path: str, size: int, names: tuple[str, ...]) -> Run:
    """The run of a classifier at `path`. Raises InputError for another model, or one of other images or classes."""
    run = Run.open(path)
    stage, found = run.config.stage, run.config.data.size
    if not isinstance(stage, ClassifyConfig):
        raise InputError(f"--classifier {path} holds a {type(stage.model).__name__}: expected the run of a classifier")
    if found != size:
        raise InputError(f"--classifier {path} was trained on {found}x{found} images: this model makes {size}x{size}")
    wrong = run.classes and names and tuple(run.classes) != tuple(names)
    if wrong or (names and stage.model.classes != len(names)):
        raise InputError(f"--classifier {path} knows other classes than the run: train one on the same data")
    return run


def keep(path: str, classifier: Classifier, config: Config, names: tuple[str, ...]) -> None:
    """Writes a classifier as a model's folder, which `opened` takes. Raises InputError if there is something."""
    with model_folder.new_folder(path) as folder:
        model_folder.save(folder, to_dict(config), {"model": classifier}, "")
        write_class_names(folder, names)


def about_run(run: Run) -> Mapping[str, object]:
    """The protocol's words for a classifier that was trained elsewhere."""
    return {"run": str(run.path), "step": run.step, "trained": to_dict(run.config)}


def class_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose likeliest class is the one that they were made as."""
    return float(jnp.mean(jnp.argmax(jnp.asarray(logits), -1) == jnp.asarray(labels)))
