"""The start of a run: it claims its directory, and takes its state from disk, from other weights, or from its seed."""

import contextlib
import dataclasses
import json
from collections.abc import Generator

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Key

from rqjax.data.text import Vocabulary
from rqjax.errors import InputError, printable, some_of
from rqjax.interface import Stage, State
from rqjax.run import frozen, hosts, words
from rqjax.run.config import PATHS, RESUMABLE, Config, differences, from_dict, to_dict
from rqjax.run.dataset import Dataset
from rqjax.run.directory import TOKENIZER, Run
from rqjax.run.training_step import Placement
from rqjax.run.versions import places
from rqjax.stages.autoencode import AutoencodeState
from rqjax.store import model_folder, stored
from rqjax.store.checkpoint import Checkpoints
from rqjax.store.lock import locked
from rqjax.store.remote import Path, replace_file


@contextlib.contextmanager
def claimed(workdir: Path, config: Config, dataset: Dataset, vocabulary: Vocabulary | None = None) -> Generator[None]:
    """Makes `workdir` this run's, and this process's own for as long as the block runs (of several: process 0's).

    Raises InputError if another process has it, or if it holds a run of another configuration, data set or vocabulary.
    """
    with locked(workdir) if hosts.primary() else contextlib.nullcontext():
        if stored.find(workdir):
            words.check_same(workdir, vocabulary)
            for line in _compared(workdir, config, dataset):
                if hosts.primary():
                    print(printable(line), flush=True)
        elif hosts.primary() and frozen.left_over(workdir):
            epath.Path(workdir / TOKENIZER).rmtree()
        if hosts.primary():
            replace_file(workdir / model_folder.CONFIG, json.dumps(to_dict(config), indent=1))
            dataset.write(workdir)
            words.write(workdir, {} if vocabulary is None else vocabulary.files())
        yield


def _compared(workdir: Path, config: Config, dataset: Dataset) -> list[str]:
    """Lines about the fields in which `config` differs from that which made `workdir`, as this version reads it.

    Raises InputError for fields, and for a data set, that may not differ.
    """
    path = workdir / model_folder.CONFIG
    if not path.is_file():
        return []
    try:
        theirs = from_dict(model_folder.unsealed(path, json.loads(path.read_text())))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): choose another --workdir, or delete this one") from error
    changed = differences(to_dict(theirs), to_dict(config))
    if wrong := [f"{name} is {a} there and {b} here" for name, (a, b) in changed.items() if name not in RESUMABLE]:
        raise InputError(
            f"{workdir} belongs to another configuration: {some_of(wrong)}:"
            " choose another --workdir, or pass the configuration it was made with"
        )
    if before := Dataset.read(workdir):
        before.check_same(workdir, dataset)
    said = [f"{workdir}: {name} is {b} now, it was {a}" for name, (a, b) in changed.items() if name in PATHS]
    if "steps" in changed:
        old, new = changed["steps"]
        said.append(f"{workdir}: {old} steps became {new}; schedules now end there")
    return said


def first_state(
    config: Config, stage: Stage, placement: Placement, workdir: Path, saves: Checkpoints, key: Key[Array, ""]
) -> State:
    """The state to go on from: the newest checkpoint after step 0, else a new one.

    A new one takes its weights from the run `start_from`, or from an imported model that `workdir` holds, if there is
    either.
    """
    if saves.latest():
        return saves.restore(placement.abstract, places)
    source = Run.open(config.start_from) if config.start_from else Run.find(workdir)
    # runs once: on a CPU, compiling it well would take longer than running it
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    state = jax.jit(stage.init, out_shardings=placement.sharding, compiler_options=quick)(key)
    return _with_weights_of(source, state, placement, workdir) if source else state


def _with_weights_of(run: Run, state: State, placement: Placement, workdir: Path) -> State:
    """A fresh state with the model and, if there is one, the discriminator of another run; averages start there."""
    like = placement.abstract
    taken = {"model": run.weights(like.model)}
    if state.ema is not None:
        taken["ema"] = jax.tree.map(jnp.copy, taken["model"])
    if isinstance(like, AutoencodeState) and like.discriminator is not None and run.has("discriminator"):
        taken["discriminator"] = run.item("discriminator", like.discriminator)
    model_folder.write_licence(workdir, run.licence)
    return dataclasses.replace(state, **taken)  # pyrefly: ignore  (every state is a dataclass)
