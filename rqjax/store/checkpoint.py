"""Training states to disk: one orbax item per field of the state, the configuration and digests beside them."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from rqjax.errors import InputError, RunError
from rqjax.store import disk, measures
from rqjax.store.arrays import Places, same_names, to_arrays
from rqjax.store.digests import ITEM, DigestHandler, DigestSave
from rqjax.store.stored import UNREADABLE, Checkpoint, checkpoints_of, steps

T = TypeVar("T")
MIN_PART = 2**20
"""Bytes of an array that a device writes, at least, where several hold the same: each smaller cut costs a compiled
slice and a file of its own."""


class Checkpoints:
    """The checkpoints of one run directory, saved asynchronously; a save that is cut off never replaces a whole one."""

    def __init__(self, workdir: str | os.PathLike[str], *, every: int, keep: int):
        measures.leave_out()
        self.folder = checkpoints_of(workdir)
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=every,
            max_to_keep=keep,
            enable_async_checkpointing=True,
            step_prefix=None,
            cleanup_tmp_directories=True,  # a save that was cut off takes space that the next one may need
        )
        self._under_way = 0
        # arrays that several devices hold whole are cut among them only where it is worth it
        array = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=MIN_PART)
        types = ((jax.Array, array), (np.ndarray, ocp.type_handlers.NumpyHandler()))
        trees = ocp.PyTreeCheckpointHandler(
            type_handler_registry=ocp.type_handlers.create_type_handler_registry(*types)
        )
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add(None, ocp.args.PyTreeSave, trees)
        handlers.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
        handlers.add(None, DigestSave, DigestHandler())
        self._manager = ocp.CheckpointManager(self.folder, options=options, handler_registry=handlers)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: object, config: Mapping[str, object], *, force: bool = False) -> bool:
        """Starts a save of every non-empty attribute of `state` if one is due at `step`; True if it did.

        `step` is a Python int: reading `state.step` would stall the devices. Raises RunError if the disk does not take
        this save, or did not take the one before.
        """
        if step == self.latest() or not (force or self._manager.should_save(step)):
            return False
        fields = {name: to_arrays({name: part}) for name, part in vars(state).items()}
        items: dict[str, ocp.args.CheckpointArgs] = {
            name: ocp.args.PyTreeSave(arrays) for name, arrays in fields.items() if arrays
        }
        items[ITEM] = DigestSave({name: x for arrays in fields.values() for name, x in arrays.items()}, config)
        args = ocp.args.Composite(config=ocp.args.JsonSave(dict(config)), **items)
        with self._saving():
            self._manager.wait_until_finished()
            self._under_way = step
            return self._manager.save(step, args=args, force=force)

    def restore(self, like: T, places: Places = same_names) -> T:
        """The newest state, placed as the shapes and shardings of `like` say, whatever mesh wrote it."""
        step = self.latest()
        if step is None:
            raise InputError(f"{self.folder} holds no checkpoint to restore")
        newest = Checkpoint.opened(self.folder / str(step))
        saved = {name: part for name, part in vars(like).items() if jax.tree.leaves(part)}
        items = {name: newest.item(name, part, places) for name, part in saved.items()}
        return dataclasses.replace(like, **items)  # pyrefly: ignore  (every state is a dataclass)

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps than `step`; every process of the run calls it."""
        for later in [found for found in self._manager.all_steps() if found > step]:
            self._manager.delete(later)

    def wait(self) -> None:
        """Waits for a save under way. Raises RunError if the disk did not take it."""
        with self._saving():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for a save under way, and ends the manager's threads. Raises RunError if the disk did not take it."""
        self.wait()
        with self._saving():
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
    workdir: str | os.PathLike[str], failed: Callable[[], str] = lambda: "cannot go on", *, writing: bool = False
) -> Generator[None]:
    """Turns an error of the disk into a RunError: `failed()`, the reason, the newest whole checkpoint, the remedy.

    With `writing` the block only writes, so that disk.reason takes a missing folder for a fault of the disk too.
    """
    try:
        yield
    except UNREADABLE as error:
        for earlier in disk.chain(error):
            if isinstance(earlier, InputError | RunError):
                raise earlier from earlier.__cause__  # said already, but files could not be closed either
        if (reason := disk.reason(error, writing=writing)) is None:
            raise
        happened, remedy = reason
        try:
            whole = f"the last whole checkpoint is step {steps(workdir)[-1]}"
        except (OSError, IndexError):
            whole = "there is no whole checkpoint"
        raise RunError(
            f"{workdir}: {failed()}: {happened}; {whole}: {remedy} and run the same command again"
        ) from error
