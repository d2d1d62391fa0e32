"""What one run is: files in configs/ fill this in, flags override any field, JSON in every checkpoint keeps it."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

from rqjax.data.pipeline import DataConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.dq.vae import DQVAEConfig
from rqjax.errors import InputError
from rqjax.nets.classifier import ClassifierConfig
from rqjax.optim import OptimizerConfig
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.rq.vae import RQVAEConfig
from rqjax.run.versions import upgrade
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig


@dataclasses.dataclass(kw_only=True)
class Config:
    """One run of `rqjax train`: a stage, its data, and how long, where and how often.

    A new run begins with the weights of the run directory or model folder `start_from`, if that is not empty. A step
    whose loss or gradient is not finite is skipped; `max_skipped` in a row end the run.
    """

    stage: Any  # AutoencodeConfig, PredictConfig or ClassifyConfig
    data: DataConfig
    steps: int
    seed: int = 0
    mesh: str = "auto"  # or "DATAxMODEL", "REPLICASxDATAxMODEL": devices along the axes of the mesh
    split_codebooks: bool = False  # over the mesh by code, instead of whole on every device
    max_skipped: int = 10
    log_every: int = 50
    preview_every: int = 1000
    save_every: int = 1000
    keep: int = 3
    start_from: str = ""

    def check(self) -> None:
        """Raises InputError for values that cannot make a run."""
        for name in ("steps", "max_skipped", "log_every", "preview_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"config.{name} is {getattr(self, name)}: expected at least 1")
        self.data.check()
        self.stage.check()


CADENCE = (
    "steps",
    "log_every",
    "preview_every",
    "save_every",
    "keep",
    "mesh",
    "split_codebooks",
    "max_skipped",
    "data.threads",
    "data.workers",
    "stage.tokenizer_path",
)
"""What may differ between the start of a run and its resumption: none of it changes step k but `steps`, which a
cosine schedule reads; the program says so when it differs."""

_STAGES = (AutoencodeConfig, ClassifyConfig, PredictConfig)
_MODELS = (ClassifierConfig, DQTransformerConfig, DQVAEConfig, RQTransformerConfig, RQVAEConfig)
_PARTS = (DataConfig, OptimizerConfig, QuantizerConfig, RoutingConfig)
_TYPES: dict[str, type] = {kind.__name__: kind for kind in (Config, *_STAGES, *_MODELS, *_PARTS)}


def to_dict(config: Any) -> Any:
    """`config` as JSON-able dictionaries that name their type; tuples become lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    return [to_dict(x) for x in config] if isinstance(config, tuple | list) else config


def from_dict(stored: Any, where: str = "config") -> Any:
    """The inverse of to_dict, also of what an earlier version wrote: fields that it did not have take their defaults.

    Raises InputError for unknown types and for fields that are missing or unknown.
    """
    return _from_dict(upgrade(stored), where)


def _from_dict(stored: Any, where: str) -> Any:
    if isinstance(stored, list):
        return tuple(_from_dict(x, where) for x in stored)
    if not isinstance(stored, dict):
        return stored
    kind = _TYPES.get(stored.get("type", ""))
    if kind is None:
        raise InputError(f"{where} is of type {stored.get('type')!r}, expected one of {', '.join(_TYPES)}")
    values = {name: _from_dict(x, f"{where}.{name}") for name, x in stored.items() if name != "type"}
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(values) - known:
        raise InputError(f"{where} has unknown fields {sorted(unknown)}: it was written by another version of rqjax")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where} is incomplete ({error}): it was written by another version of rqjax") from error


def differences(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two results of to_dict differ: `{"stage.model.depth": (4, 8)}`."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return {} if a == b else {prefix: (a, b)}
    names = [*a, *(name for name in b if name not in a)]
    found: dict[str, tuple[Any, Any]] = {}
    for name in names:
        found |= differences(a.get(name), b.get(name), f"{prefix}.{name}" if prefix else name)
    return found


def load_file(name: str, variant: str = "") -> Config:
    """The configuration of configs/`name`.py, from the checkout or from the installed package."""
    here = pathlib.Path(__file__).parent.parent
    paths = [folder / f"{name}.py" for folder in (here.parent / "configs", here / "configs")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"no configuration {name}: looked for {paths[0]} and {paths[1]}")
    spec = importlib.util.spec_from_file_location(f"rqjax_config_{name}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)
