"""Trains one stage: `rqjax train --config quickstart:rqvae --workdir runs/a --config.steps=400`."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
from clu import parameter_overview

from rqjax import data
from rqjax.data.sources import Source
from rqjax.errors import InputError, Interrupted, RunError
from rqjax.flags import configuration
from rqjax.flags.train import FLAGS, PRINT_CONFIG, PROFILE, WORKDIR
from rqjax.interface import Stage, State
from rqjax.run import (
    agreement,
    config_file,
    devices,
    fields,
    follow,
    frozen,
    hosts,
    latents,
    profile,
    training_step,
    words,
)
from rqjax.run.config import Config, to_dict
from rqjax.run.dataset import Dataset
from rqjax.run.ledger import Ledger
from rqjax.run.notice import Notice
from rqjax.run.skips import Skips, SkipWatch
from rqjax.run.start import claimed, first_state
from rqjax.run.training_step import Placement
from rqjax.run.validation import Validation
from rqjax.run.watch import Watch
from rqjax.store.arrays import to_arrays
from rqjax.store.checkpoint import Checkpoints, failing_disk
from rqjax.store.remote import Path, to_path


def main(_: Sequence[str]) -> None:
    """Trains the configuration of the flags; a run cut short by SIGTERM or SIGHUP saves, and its status asks
    for a restart.
    """
    asked = configuration.asked(FLAGS)
    if asked is not None and PRINT_CONFIG.value:
        print("\n".join(described(config_file.load(asked))))
        return
    if asked is None or not WORKDIR.value:
        raise InputError("train needs --config NAME[:VARIANT] and --workdir DIR")
    config = config_file.load(asked)
    traced = profile.parse(PROFILE.value)
    hosts.join(FLAGS)
    devices.use_cores(config.data.batch // max(config.stage.microbatches, 1), config.mesh)
    agreement.check_same({"workdir": WORKDIR.value, "config": to_dict(config)})
    devices.say()
    try:
        state = train(config, to_path(WORKDIR.value), asked.given, traced)
        hosts.leave(0 if int(state.step) >= config.steps else hosts.RESTART)
    except Exception as error:
        if jax.process_count() == 1 or isinstance(error, InputError | RunError):
            raise
        hosts.leave(1, error)


def described(config: Config) -> list[str]:
    """A line for each field of a configuration: its flag with the value, and its meaning."""
    rows = [(f"--config.{field.name}={field.word}", field.meaning) for field in fields.listed(config)]
    width = max(len(flag) for flag, _ in rows)
    return [f"{flag:<{width}}  {meaning}".rstrip() for flag, meaning in rows]


def train(
    config: Config,
    workdir: Path,
    given: Collection[str] | None = None,
    traced: tuple[int, int] | None = None,
) -> State:
    """The state after `config.steps` steps, or fewer if told to leave, from the newest checkpoint in `workdir` on.

    With the names of the fields that are `given`, others follow from a prior's tokenizer and the data, else none do.
    A trace of the steps `traced`, first and last, is left in `workdir`.

    Step k sees batch k and a key that is a function of (seed, k): an interrupted run continues as if it had not been.
    Raises InputError for what cannot make a run, RunError if losses stay NaN or a disk is full, Interrupted after
    Ctrl-C.
    """
    ledger = Ledger(workdir)
    with failing_disk(workdir):
        config = config if given is None else follow.tokenizer(config, workdir, given)
        config = frozen.with_tokenizer(config, workdir)
        config.check()
        frozen.check(config, workdir)
        source, vocabulary = data.open_source(config.data), words.of(config)
        latents.check(config, workdir, source)
        config = config if given is None else follow.classes(config, workdir, source.classes, given)
        follow.check_classes(config, workdir, source.classes)
        stage = config.stage.build(config.steps)
        placement = training_step.place(config, stage)
        validation = Validation(config, stage, placement) if config.eval_every else None
        with (
            jax.set_mesh(placement.mesh),
            claimed(workdir, config, Dataset.of(source), vocabulary),
            Notice() as notice,
            Checkpoints(workdir, every=config.save_every, keep=config.keep) as saves,
            Watch(config, stage, placement, workdir, saves.latest() or 0, ledger, validation, traced) as watch,
        ):
            state = _train(config, stage, placement, workdir, saves, source, notice, watch)
    if notice.interrupted and int(state.step) < config.steps:
        raise Interrupted(f"{workdir}: saved step {int(state.step)}; the same command goes on")
    return state


def _train(
    config: Config,
    stage: Stage,
    placement: Placement,
    workdir: Path,
    saves: Checkpoints,
    source: Source,
    notice: Notice,
    watch: Watch,
) -> State:
    """The loop. Nothing in it waits for the devices but what `watch` and a save do when they are due."""
    key, start = jax.random.key(config.seed), saves.latest() or 0
    fixed = jax.device_put(frozen.load(config, workdir), placement.whole)
    state = first_state(config, stage, placement, workdir, saves, key)
    step_fn = training_step.jitted(config, stage, placement)
    skips, skipped = Skips.none(), SkipWatch(config.max_skipped)
    _write_parameters(workdir, placement)
    watch.say(*data.skipped(source.left_out), f"{workdir}: {Dataset.of(source)}")
    watch.say(f"{workdir}: {_size(placement)}, {'resumed at' if start else 'from'} step {start} of {config.steps}")
    with data.batches(config.data, placement.mesh, start, source) as batches:
        for step, batch in zip(range(start + 1, config.steps + 1), watch.awaited(batches), strict=False):
            step_key, last = jax.random.fold_in(key, step), step == config.steps
            with watch.starting(step):
                state, skips, metrics = step_fn(state, skips, fixed, batch, step_key)
            notice.steps += 1
            watch.after(step, state, fixed, batch, step_key, metrics)
            leaving = notice.reached(step)
            given_up = skipped.given_up_at(step, skips, last=last)
            with watch.saving():
                saves.save(step, state, to_dict(config), force=leaving or last or given_up is not None)
                if leaving or last or given_up is not None:
                    saves.wait()  # so that the time of this save counts too
            if given_up is not None:
                raise _not_finite(workdir, config.max_skipped, given_up, step)
            if leaving:
                if not notice.interrupted:
                    watch.say(f"{workdir}: told to leave, saved step {step}")
                break
        watch.say(*data.skipped(batches.corrupt))
    return state


def _not_finite(workdir: Path, in_a_row: int, given_up: int, saved: int) -> RunError:
    return RunError(
        f"{workdir}: {in_a_row} steps in a row up to step {given_up} had a loss or gradient that is not finite, and"
        f" were skipped; the state before them is saved as step {saved}: lower the learning rate or look at the data,"
        " and go on from there in a new --workdir with --config.start_from"
    )


def _write_parameters(workdir: Path, placement: Placement) -> None:
    if hosts.primary():
        arrays: Any = to_arrays(placement.abstract.model)  # its types leave shapes out, which it accepts
        table = parameter_overview.get_parameter_overview(arrays, include_stats=False)
        (workdir / "parameters.txt").write_text(table + "\n")


def _size(placement: Placement) -> str:
    model = placement.state.model
    count, devices = sum(x.size for x in jax.tree.leaves(model)), jax.device_count()
    return f"{type(model).__name__} of {count / 1e6:.2f}M parameters on {devices} device{'s' * (devices > 1)}"
