"""The only door between training state and disk: one orbax item per field of the state, the config beside them."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Generator
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax import mesh
from rqjax.errors import InputError, RunError
from rqjax.store import disk, model_folder
from rqjax.store.arrays import check_fit, from_arrays, to_arrays
from rqjax.store.remote import Path, in_bucket, to_path

FOLDER = "checkpoints"
UNREADABLE = (ValueError, KeyError, OSError, TypeError, RuntimeError)
"""What orbax, tensorstore and json raise for files that are truncated, damaged or gone."""


class Checkpoints:
    """The checkpoints of one run directory, saved asynchronously; a save that is cut off never replaces a whole one."""

    def __init__(self, workdir: str | os.PathLike[str], *, every: int, keep: int):
        self.folder = _folder(workdir)
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=every,
            max_to_keep=keep,
            enable_async_checkpointing=True,
            step_prefix=None,
            cleanup_tmp_directories=True,  # a save that was cut off takes space that the next one may need
        )
        self._under_way = 0
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, config: dict[str, Any], *, force: bool = False) -> bool:
        """Starts a save of every non-empty field of `state` if one is due at `step`; True if it did.

        `step` is a Python int: reading `state.step` would stall the devices. Raises RunError if the disk does not take
        this save, or did not take the one before.
        """
        if step == self.latest() or not (force or self._manager.should_save(step)):
            return False
        items = {name: ocp.args.StandardSave(arrays) for name, arrays in _items(state).items()}
        args = ocp.args.Composite(config=ocp.args.JsonSave(config), **items)
        with self._saving():
            self._manager.wait_until_finished()
            self._under_way = step
            return self._manager.save(step, args=args, force=force)

    def restore(self, abstract: Any) -> Any:
        """The newest state, placed as the shapes and shardings of `abstract` say, whatever mesh wrote it."""
        step = self.latest()
        if step is None:
            raise InputError(f"{self.folder} holds no checkpoint to restore")
        found = {}
        for field in dataclasses.fields(abstract):
            like = getattr(abstract, field.name)
            found[field.name] = _restore(self.folder / str(step) / field.name, like) if jax.tree.leaves(like) else like
        return dataclasses.replace(abstract, **found)

    def close(self) -> None:
        """Waits for a save under way, and ends the manager's threads. Raises RunError if the disk did not take it."""
        with self._saving():
            self._manager.wait_until_finished()
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes; a run that something else ended gets its last save too, if it can be had."""
        if kind is None:
            self.close()
        elif jax.process_count() == 1:  # others would have to wait with this one
            with contextlib.suppress(*UNREADABLE):
                self.close()

    def _saving(self) -> contextlib.AbstractContextManager[None]:
        return failing_disk(self.folder.parent, lambda: f"cannot save step {self._under_way}", writing=True)


@contextlib.contextmanager
def failing_disk(
    workdir: str | os.PathLike[str], what: Callable[[], str] = lambda: "cannot go on", *, writing: bool = False
) -> Generator[None]:
    """Makes of an error of the disk a RunError that says `what` failed, why, which step is whole, and the remedy.

    With `writing` the block only writes: what disk.reason understands by it.
    """
    try:
        yield
    except UNREADABLE as error:
        for earlier in disk.chain(error):
            if isinstance(earlier, InputError | RunError):
                raise earlier from earlier.__cause__  # said already, but files could not be closed either
        if (found := disk.reason(error, writing=writing)) is None:
            raise
        happened, remedy = found
        try:
            whole = f"the last whole checkpoint is step {max(_steps(workdir))}"
        except (OSError, ValueError):
            whole = "there is no whole checkpoint"
        raise RunError(f"{workdir}: {what()}: {happened}; {whole}: {remedy} and run the same command again") from error


def read_config(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration, as JSON, of the newest checkpoint in a run directory. Raises InputError if there is none.

    A folder that is a model by itself (store.model_folder) serves here, and below, as a run directory with one
    checkpoint.
    """
    if _is_folder(workdir):
        return model_folder.read_config(workdir)
    path = _newest(workdir) / "config" / "metadata"
    try:
        return json.loads(path.read_text())
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def has_item(workdir: str | os.PathLike[str], name: str) -> bool:
    """Whether the newest checkpoint of a run directory holds the state's field `name`."""
    return model_folder.has_item(workdir, name) if _is_folder(workdir) else (_newest(workdir) / name).is_dir()


def restore_model(workdir: str | os.PathLike[str], abstract: Any, *, ema: bool = True) -> Any:
    """The newest model in a run directory: its averaged weights where `ema` and the run kept them."""
    return restore_item(workdir, "ema" if ema and has_item(workdir, "ema") else "model", abstract)


def restore_item(workdir: str | os.PathLike[str], name: str, abstract: Any) -> Any:
    """One field of the newest state in a run directory, placed as `abstract` says, or whole on every device."""
    if _is_folder(workdir):
        return model_folder.restore_item(workdir, name, abstract)
    return _restore(_newest(workdir) / name, abstract)


def exists(workdir: str | os.PathLike[str]) -> bool:
    """Whether a run directory holds a whole checkpoint."""
    return bool(_steps(workdir)) or model_folder.holds_model(workdir)


def latest_step(workdir: str | os.PathLike[str]) -> int:
    """The step of the newest whole checkpoint in a run directory. Raises InputError if there is none."""
    return 0 if _is_folder(workdir) else int(_newest(workdir).name)


def copy_model(source: str | os.PathLike[str], target: str | os.PathLike[str], model: Any) -> None:
    """Writes `model` as a run directory of its own at `target`, with the step and config of the run at `source`."""

    @dataclasses.dataclass(frozen=True)
    class Copy:
        model: Any

    saves = Checkpoints(target, every=1, keep=1)
    saves.save(latest_step(source), Copy(model), read_config(source), force=True)
    saves.close()
    model_folder.copy_licence(source, target)


def _is_folder(workdir: str | os.PathLike[str]) -> bool:
    """Whether there is no checkpoint, but a model by itself."""
    return not _steps(workdir) and model_folder.holds_model(workdir)


def _items(state: Any) -> dict[str, dict[str, jax.Array]]:
    fields = {field.name: to_arrays({field.name: getattr(state, field.name)}) for field in dataclasses.fields(state)}
    return {name: arrays for name, arrays in fields.items() if arrays}


def _newest(workdir: str | os.PathLike[str]) -> Path:
    steps = _steps(workdir)
    if not steps:
        raise InputError(
            f"{workdir} holds no checkpoint: expected a run directory, of `rqjax train` or `rqjax convert`"
        )
    return _folder(workdir) / str(max(steps))


def _folder(workdir: str | os.PathLike[str]) -> Path:
    path = to_path(workdir)
    # the names in a bucket are absolute, and epath takes them for relative ones
    return (path if in_bucket(path) else path.absolute()) / FOLDER


def _steps(workdir: str | os.PathLike[str]) -> list[int]:
    folder = _folder(workdir)
    found = ocp.path.step.standard_name_format().find_all(folder) if folder.is_dir() else ()
    return [whole.step for whole in found]


def _restore(path: Path, like: Any) -> Any:
    expected = to_arrays({path.name: _placed(like)})
    with ocp.StandardCheckpointer() as door:
        try:
            stored = door.metadata(path).item_metadata
            if stored is None:
                raise ValueError("its metadata are missing or damaged")
            check_fit(expected, stored.tree, f"the checkpoint {path}")
            arrays = door.restore(path, expected)
        except InputError:
            raise
        except UNREADABLE as error:
            raise _damaged(path, error) from error
    return from_arrays({path.name: like}, arrays)[path.name]


def _placed(like: Any) -> Any:
    """Shapes with a sharding each; those that have none are put whole on every device of the mesh in force."""
    devices = jax.sharding.get_mesh()
    whole = NamedSharding(mesh.make_mesh() if devices.empty else devices, P())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or whole), like
    )


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return InputError(f"cannot read {path} ({reason}): delete {path.parent} to go on from the checkpoint before it")
