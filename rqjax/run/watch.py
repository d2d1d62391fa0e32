"""All that looks at a run while it trains: its log, its pictures, its held-out figures, its clock and its profile."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, Key, PyTree

from rqjax.interface import Batch, Stage, State
from rqjax.run import hosts
from rqjax.run.alarms import Alarms
from rqjax.run.best import Best
from rqjax.run.config import Config
from rqjax.run.dataset import class_names
from rqjax.run.ledger import Ledger, Starving, summary
from rqjax.run.log import Log
from rqjax.run.profile import Profile
from rqjax.run.signs import Books, Sign, Signs
from rqjax.run.training_step import Placement
from rqjax.run.validation import Validation
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.store.remote import Path


class Watch:
    """Looks at states and never changes them; it waits for the devices only where something is due."""

    def __init__(
        self,
        config: Config,
        stage: Stage,
        placement: Placement,
        workdir: Path,
        start: int,
        ledger: Ledger,
        validation: Validation | None,
        profile: tuple[int, int] | None = None,
    ):
        self._config, self._workdir, self._ledger, self._validation = config, workdir, ledger, validation
        self._best = Best(workdir, start) if validation else None
        self._preview = jax.jit(stage.preview, out_shardings=placement.whole)
        self._whole = jax.jit(lambda label: label, out_shardings=placement.whole)
        self._log = Log(workdir, start=start, steps=config.steps, images_per_step=config.data.batch)
        self._profile = Profile(profile, self._log.folder)
        self._compiled: set[str] = set()
        self._starving, self._alarms = Starving(ledger), Alarms(workdir, start)
        self._signs: Signs | None = None  # until there is a state
        self._pending: Any = None  # a result of the step before

    def awaited(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches. The time until one is there is lost, unless the devices are not finished by then."""
        while True:
            self._ledger.turn("waiting for data")
            batch = next(batches, None)
            spent = self._ledger.turn("steps")
            if self._pending is not None and not self._pending.is_ready():
                self._ledger.move(spent, "waiting for data", "steps")
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def starting(self, step: int) -> Iterator[None]:
        """Around the call that starts a step."""
        self._profile.before(step)
        with self._compiling("the step") if not self._compiled else contextlib.nullcontext():
            yield

    def after(
        self, step: int, state: State, fixed: PyTree, batch: Batch, key: Key[Array, ""], metrics: Mapping[str, Array]
    ) -> None:
        """Whatever is due after a step: scalars, validation, pictures, the end of the profile."""
        config, last = self._config, step == self._config.steps
        self._pending = next(iter(metrics.values()))
        self._log.at(step)
        self._say_of(lambda: self._profile.after(step, metrics))
        if step % config.log_every == 0 or last:
            values = self._log.scalars(step, metrics)
            starving = self._starving.said()
            self._warn(step, state, values, [Sign("data", starving)] if starving else [])
            self._ledger.write()
        if self._validation and (step % config.eval_every == 0 or last):
            self._validate(step, state, fixed)
        if step % config.preview_every == 0:
            jax.block_until_ready(metrics)
            # the first time is mostly compiled
            new = "the previews" not in self._compiled
            with self._compiling("the previews") if new else self._ledger.doing("previews"):
                classes = self._classes_of(batch)  # before: devices of a CPU run two programs of all at once at a risk
                self._log.images(step, self._preview(state, fixed, batch, key), classes)

    def _classes_of(self, batch: Batch) -> list[str]:
        """The names of the classes of a batch's images, in their order; none if there are not two, or not known."""
        if "label" not in batch:
            return []
        labels = jax.device_get(self._whole(batch["label"]))  # every process takes part
        names = class_names(self._workdir) if hosts.primary() else ()
        return [names[k] for k in labels] if len(names) > max(1, labels.max()) and labels.min() >= 0 else []

    def _validate(self, step: int, state: State, fixed: PyTree) -> None:
        assert self._validation is not None
        assert self._best is not None
        jax.block_until_ready(state.step)
        if "the validation" not in self._compiled:
            with self._compiling("the validation"):
                self._validation.warm(state, fixed)
        with self._ledger.doing("evaluating"):
            figures = self._validation.figures(state, fixed)
        with self._ledger.doing("saving"):
            best = self._best.keep(step, figures, state, self._config)
        self._log.figures(step, figures, "the best so far" if best else "")
        self._warn(step, state, figures)

    def _warn(self, step: int, state: State, values: Mapping[str, float], more: Sequence[Sign] = ()) -> None:
        """Says what figures of `step` warn of, and what else does."""
        config = self._config
        if self._signs is None:
            books = isinstance(config.stage, AutoencodeConfig)
            self._signs = Signs(config.stage, Books.of(state.model.code_sizes, config.data.batch) if books else None)
        with self._ledger.doing("saving"):
            self._log.say(*self._alarms.said(step, [*self._signs.of(step, values), *more]))

    @contextlib.contextmanager
    def _compiling(self, program: str) -> Iterator[None]:
        self._compiled.add(program)
        with self._ledger.doing("compiling"), self._log.compiling(program):
            yield

    def _say_of(self, profile: Callable[[], str | None]) -> None:
        with self._ledger.doing("saving"):
            if said := profile():
                self._log.say(said)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Time in the block goes to saving."""
        with self._ledger.doing("saving"):
            yield

    def say(self, *lines: str) -> None:
        """Prints lines, on the first host."""
        self._log.say(*lines)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        """Ends a profile under way, says where the time went, and closes the files."""
        with contextlib.closing(self._log):
            self._say_of(self._profile.close)
            self._log.say(summary(self._ledger.entries))
            self._ledger.write(now=True)
