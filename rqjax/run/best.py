"""The model of a run with the least loss on held-out images: `best` in its directory, itself a run directory."""

import json
import types

from rqjax.interface import State
from rqjax.run import hosts
from rqjax.run.config import Config, to_dict
from rqjax.run.directory import BEST
from rqjax.store.checkpoint import Checkpoints
from rqjax.store.remote import Path, replace_file

FILE = "eval.json"


class Best:
    """The least loss so far, and the weights that had it. What later steps than `start` left there is done again."""

    def __init__(self, workdir: Path, start: int):
        self._folder = workdir / BEST
        found = _read(self._folder / FILE)
        self._loss = None if found is None else float(found["eval_loss"])
        if self._folder.is_dir() and (found is None or found["step"] > start):
            self._loss = None
            with Checkpoints(self._folder, every=1, keep=1) as saves:
                saves.drop_after(start)

    def keep(self, step: int, figures: dict[str, float], state: State, config: Config) -> bool:
        """Saves the weights of `state` if its `eval_loss` is the least so far (NaN never is); whether it did."""
        loss = figures["eval_loss"]
        if not (loss < (float("inf") if self._loss is None else self._loss)):
            return False
        weights = types.SimpleNamespace(model=state.model, ema=state.ema)
        with Checkpoints(self._folder, every=1, keep=1) as saves:
            saves.save(step, weights, to_dict(config), force=True)
        if hosts.primary():
            replace_file(self._folder / FILE, json.dumps({"step": step, **figures}, indent=1))
        self._loss = loss
        return True


def _read(path: Path) -> dict[str, float] | None:
    """The figures of the best model; None if they are not there or damaged."""
    try:
        found = json.loads(path.read_text())
        return {"step": float(found["step"]), "eval_loss": float(found["eval_loss"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
