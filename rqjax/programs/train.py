"""Trains one stage: `rqjax train --config configs/quickstart.py:rqvae --workdir runs/a --config.steps=400`."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from clu import parameter_overview
from ml_collections import config_flags

from rqjax import data, mesh
from rqjax.errors import InputError, RunError
from rqjax.run import hosts, training_step
from rqjax.run.config import CADENCE, Config, differences, from_dict, to_dict
from rqjax.run.directory import TOKENIZER, load_model
from rqjax.run.log import Log
from rqjax.stages.interface import Stage
from rqjax.store import checkpoint, model_folder
from rqjax.store.arrays import to_arrays
from rqjax.store.remote import Path, to_path

FLAGS = flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="A file of configs/, as in configs/quickstart.py:rqvae.", flag_values=FLAGS
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, metrics and pictures go; an old one is resumed.", flag_values=FLAGS
)
hosts.define_flags(FLAGS)


def main(_: Sequence[str]) -> None:
    """Trains what the flags describe; a run cut short by SIGTERM saves and leaves with a status that asks for more."""
    if CONFIG.value is None or WORKDIR.value is None:
        raise InputError("train needs --config FILE[:VARIANT] and --workdir DIR")
    hosts.join(FLAGS)
    config = CONFIG.value
    try:
        state = train(config, to_path(WORKDIR.value))
        hosts.leave(0 if int(state.step) >= config.steps else hosts.RESTART)
    except Exception as error:
        if jax.process_count() == 1 or isinstance(error, InputError | RunError):
            raise
        hosts.leave(1, error)


def train(config: Config, workdir: Path) -> Any:
    """The state after `config.steps` steps, or fewer if told to leave, from the newest checkpoint in `workdir` on.

    Step k sees batch k and a key that is a function of (seed, k): an interrupted run continues as if it had not been.
    Raises InputError for what cannot make a run, RunError if losses stay NaN or a disk is full.
    """
    config.check()
    with checkpoint.failing_disk(workdir):
        return _train(config, workdir)


def _train(config: Config, workdir: Path) -> Any:
    # The run agrees with what the directory already holds.
    _claim(workdir, config)
    stage = config.stage.build(config.steps)
    key = jax.random.key(config.seed)
    placement = training_step.place(config, stage)
    with jax.set_mesh(placement.mesh):
        # The state: its shapes, its placement, then its values, from disk if there are any.
        abstract = mesh.with_sharding(placement.state, placement.sharding)
        saves = checkpoint.Checkpoints(workdir, every=config.save_every, keep=config.keep)
        start = saves.latest() or 0
        frozen = jax.device_put(_frozen(stage, config, workdir), placement.whole)
        if start:
            state = saves.restore(abstract)
        else:
            # runs once: on a CPU, compiling it well would take longer than running it
            quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
            state = jax.jit(stage.init, out_shardings=placement.sharding, compiler_options=quick)(key)
            if source := config.start_from or (str(workdir) if model_folder.holds_model(workdir) else ""):
                state = _with_weights_of(source, state, abstract)
                model_folder.copy_licence(source, workdir)
        step_fn = training_step.jitted(config, stage, placement)
        skips, watch = training_step.Skips.none(), training_step.SkipWatch(config.max_skipped)

        # The loop. Nothing in it waits for the devices but the lines of the log.
        if hosts.primary():
            table = parameter_overview.get_parameter_overview(to_arrays(abstract.model), include_stats=False)
            (workdir / "parameters.txt").write_text(table + "\n")
        log = Log(workdir, start=start, steps=config.steps, images_per_step=config.data.batch)
        log.say(f"{workdir}: {_size(abstract)}, {'resumed at' if start else 'from'} step {start} of {config.steps}")
        with (
            saves,
            contextlib.closing(log),
            data.batches(config.data, placement.mesh, start) as batches,
            hosts.PreemptionNotice() as notice,
        ):
            _check_classes(config, batches.source.classes)
            for step, batch in zip(range(start + 1, config.steps + 1), batches, strict=False):
                state, skips, metrics = step_fn(state, skips, frozen, batch, jax.random.fold_in(key, step))
                last = step == config.steps
                if step % config.log_every == 0 or last:
                    log.scalars(step, metrics)
                if step % config.preview_every == 0:
                    log.images(step, stage.preview(state, frozen, batch, jax.random.fold_in(key, step)))
                leaving = notice.reached(step)
                given_up = watch.given_up_at(step, skips, last=last)
                saves.save(step, state, to_dict(config), force=leaving or last or given_up is not None)
                if given_up is not None:
                    saves.close()
                    raise _not_finite(workdir, config.max_skipped, given_up, step)
                if leaving:
                    log.say(f"{workdir}: told to leave, saved step {step}")
                    break
            for name, reason in batches.corrupt.items():
                log.say(f"skipped {name}: {reason}")
    return state


def _claim(workdir: Path, config: Config) -> None:
    """Makes `workdir` this run's, or raises InputError if it belongs to another configuration."""
    path = workdir / "config.json"
    ours = to_dict(config)
    if path.is_file():
        try:
            theirs = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged ({error}): choose another --workdir, or delete this one") from error
        changed = differences(to_dict(from_dict(theirs)), ours)
        if wrong := [f"{name} is {a} there and {b} here" for name, (a, b) in changed.items() if name not in CADENCE]:
            more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
            raise InputError(
                f"{workdir} belongs to another configuration: {'; '.join(wrong[:3])}{more}:"
                " choose another --workdir, or pass the configuration it was made with"
            )
        if "steps" in changed:
            old, new = changed["steps"]
            print(f"{workdir}: {old} steps became {new}; schedules now end there")
    if hosts.primary():
        workdir.mkdir(parents=True, exist_ok=True)
        fresh = workdir / ".config.json.tmp"
        fresh.write_text(json.dumps(ours, indent=1))
        fresh.replace(path)


def _check_classes(config: Config, found: Sequence[str]) -> None:
    """Raises InputError if the data has labels that the model has no class for."""
    classes = getattr(config.stage.model, "classes", 0)
    if classes and len(found) > classes:
        raise InputError(
            f"the data has {len(found)} classes, stage.model.classes is {classes}: set it to {len(found)}, or take"
            " class folders away"
        )


def _with_weights_of(source: str, state: Any, abstract: Any) -> Any:
    """A fresh state, but for the model and, if there is one, the discriminator of another run; averages start there."""
    found = {"model": checkpoint.restore_model(source, abstract.model)}
    if getattr(state, "ema", None) is not None:
        found["ema"] = jax.tree.map(jnp.copy, found["model"])
    if getattr(state, "discriminator", None) is not None and checkpoint.has_item(source, "discriminator"):
        found["discriminator"] = checkpoint.restore_item(source, "discriminator", abstract.discriminator)
    return dataclasses.replace(state, **found)


def _frozen(stage: Stage, config: Config, workdir: Path) -> Any:
    """What the stage reads and never trains. A prior keeps its tokenizer, so that its directory is enough to sample."""
    if not hasattr(config.stage, "tokenizer"):
        return stage.load_frozen()
    kept = workdir / TOKENIZER
    if checkpoint.exists(kept):
        return {"tokenizer": load_model(kept)[1]}
    frozen = stage.load_frozen()
    checkpoint.copy_model(config.stage.tokenizer_path, kept, frozen["tokenizer"])
    return frozen


def _not_finite(workdir: Path, in_a_row: int, given_up: int, saved: int) -> RunError:
    return RunError(
        f"{workdir}: {in_a_row} steps in a row up to step {given_up} had a loss or gradient that is not finite, and"
        f" were skipped; what the steps before them made is saved as step {saved}: lower the learning rate or look at"
        " the data, and go on from there in a new --workdir with --config.start_from"
    )


def _size(abstract: Any) -> str:
    trained = sum(x.size for x in jax.tree.leaves(abstract.model))
    return f"{type(abstract.model).__name__} of {trained / 1e6:.2f}M parameters on {jax.device_count()} devices"
