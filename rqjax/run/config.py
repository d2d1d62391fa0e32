"""The description of one run: files in configs/ fill it in, flags override any field, every checkpoint keeps it."""

import dataclasses
import functools
import runpy
import typing
from typing import Any

from rqjax.checks import at_least
from rqjax.data.config import DataConfig
from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.patches import PatchDQVAEConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError, printable
from rqjax.interface import TokenizerConfig
from rqjax.metrics.ssim import WINDOW
from rqjax.nets.classifier import ClassifierConfig
from rqjax.optim import OptimizerConfig
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.network import BlockConfig
from rqjax.rq.patches import PatchRQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.annotated import fits, named
from rqjax.run.limits import check_limit, check_limits
from rqjax.run.shipped import FOLDERS
from rqjax.run.versions import FIRST, VERSION, upgrade
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig

StageKind = AutoencodeConfig | ClassifyConfig | PredictConfig


@dataclasses.dataclass(kw_only=True)
class Config:
    """One run of `rqjax train`: a stage, its data, the number of steps, the devices, and the times of logs and saves.

    A new run begins with the weights of the run directory or model folder `start_from`, if that is not empty. A step
    whose loss or gradient is not finite is skipped; `max_skipped` in a row end the run.
    """

    stage: StageKind  # what is trained, and how: AutoencodeConfig, PredictConfig or ClassifyConfig
    data: DataConfig  # the images
    steps: int  # of the whole run; a schedule ends with them
    seed: int = 0  # of the first weights and of all that is drawn in training; the data has its own
    mesh: str = "auto"  # or "DATAxMODEL", "REPLICASxDATAxMODEL": devices along the axes of the mesh
    split_codebooks: bool = False  # over the mesh by code, instead of whole on every device
    max_skipped: int = 10  # steps in a row without a finite loss and gradient that end the run
    log_every: int = 50  # steps between two lines of figures
    preview_every: int = 1000  # steps between two sheets of pictures
    eval_every: int = 0  # steps between two validations, the last one at the end; 0: none
    eval_split: str = "validation"  # of the data, as data.split names them: the images held out
    eval_batches: int = 0  # of the held-out images; 0: all of them
    save_every: int = 1000  # steps between two checkpoints; the last step is always saved
    keep: int = 3  # checkpoints that stay, the newest ones
    start_from: str = ""  # a run directory or a model's folder whose weights a new run begins with

    def check(self) -> None:
        """Raises InputError for values that cannot make a run, and for a stage that reads what its data has not."""
        check_limits(self)
        names = ("steps", "max_skipped", "log_every", "preview_every", "save_every", "keep")
        at_least(1, **{f"config.{name}": getattr(self, name) for name in names})
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"config.seed is {self.seed}: expected a number of 64 bits")
        at_least(0, **{f"config.{name}": getattr(self, name) for name in ("eval_every", "eval_batches")})
        self.data.check()
        self.stage.check()
        self._check_size()
        self._check_texts()
        if self.eval_every:
            self._check_validation()
        latent = {"image"} if isinstance(self.stage, PredictConfig) and "latent" in self.data.fields else set()
        if missing := sorted(self.stage.fields - latent - self.data.fields):
            raise InputError(
                f"the stage reads the field {missing[0]!r} of a batch, and data.name={self.data.name} gives"
                f" {', '.join(sorted(self.data.fields))}: choose data with it, or a model that does not read it"
            )

    def _check_size(self) -> None:
        """Refuses images of another size than the tokenizer's, which reads and makes them."""
        seen = {"tokenizer": self.stage.tokenizer} if isinstance(self.stage, PredictConfig) else {}
        seen |= {"model": self.stage.model} if isinstance(self.stage, AutoencodeConfig) else {}
        for name, model in seen.items():
            if model is not None and model.resolution != self.data.size:
                raise InputError(
                    f"data.size is {self.data.size} and stage.{name}.resolution is {model.resolution}: make them equal"
                )

    def _check_texts(self) -> None:
        """Refuses captions of another length than the model's texts."""
        condition = self.stage.model.condition if isinstance(self.stage, PredictConfig) else None
        if condition and condition.field == "text" and self.data.text_length not in (0, condition.length):
            raise InputError(
                f"data.text_length is {self.data.text_length} and stage.model.text_length is {condition.length}: make"
                " them equal"
            )

    def _check_validation(self) -> None:
        if self.data.split in (self.eval_split, "all"):
            raise InputError(
                f"eval_every={self.eval_every} with data.split={self.data.split}, which leaves no held-out images for"
                f" eval_split={self.eval_split}: train on another split, or set eval_every=0"
            )
        if isinstance(self.stage, AutoencodeConfig) and self.data.size < WINDOW:
            raise InputError(
                f"eval_every={self.eval_every} with data.size={self.data.size}: SSIM needs images of {WINDOW}x{WINDOW}"
                " or more; set eval_every=0"
            )


PATHS = ("data.path", "data.cache", "data.vocabulary", "start_from", "stage.tokenizer_path", "stage.vgg16_path")
"""Places of files, which may move: a run keeps what they hold, and compares it (dataset.py, words.py, frozen.py)."""
RESUMABLE = (
    *PATHS,
    "steps",
    "log_every",
    "preview_every",
    "eval_every",
    "eval_split",
    "eval_batches",
    "save_every",
    "keep",
    "mesh",
    "split_codebooks",
    "max_skipped",
    "data.threads",
    "data.workers",
    "data.on_corrupt",
    "stage.preview_count",
    "stage.temperature",
    "stage.top_k",
    "stage.top_p",
    "stage.guidance",
)
"""Fields that may change when a run is resumed. They do not affect the numbers of step k, except `steps` (it moves the
end of the schedule; train prints a note)."""

_TOKENIZERS = (DQVAEConfig, PatchDQVAEConfig, PatchRQVAEConfig, RQVAEConfig)
_MODELS = (ClassifierConfig, DQTransformerConfig, RQTransformerConfig, *_TOKENIZERS)
_PARTS = (BlockConfig, DataConfig, OptimizerConfig, QuantizerConfig, RoutingConfig)
KINDS: dict[str, type] = {kind.__name__: kind for kind in (Config, *typing.get_args(StageKind), *_MODELS, *_PARTS)}
"""The classes that a configuration is made of, by name."""


def to_dict(config: object) -> dict[str, object]:
    """A configuration as dictionaries for JSON, each with its `type`; tuples become lists. Config has its `version`."""
    fields = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}  # pyrefly: ignore
    version = {"version": VERSION} if isinstance(config, Config) else {}
    return {"type": type(config).__name__, **version, **fields}


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_plain(x) for x in value]
    return to_dict(value) if dataclasses.is_dataclass(value) else value


def from_dict(stored: object) -> object:
    """The inverse of to_dict, also of an earlier version's: fields that it did not have take their defaults.

    Raises InputError for unknown types, and for fields that are missing, unknown, of another type than annotated or
    above the limits of run/limits.py.
    """
    version = stored.get("version", FIRST) if isinstance(stored, dict) else FIRST
    origin = f"it was written by version {printable(version, 20)} of rqjax, this is {VERSION}"
    try:
        return _from_dict(upgrade(stored), "config", origin)
    except RecursionError:
        raise InputError("config nests deeper than any configuration: it is damaged") from None


def _from_dict(stored: object, where: str, origin: str) -> object:
    if isinstance(stored, list):
        return tuple(_from_dict(x, where, origin) for x in stored)
    if not isinstance(stored, dict):
        return stored
    kind = KINDS.get(str(stored.get("type")))
    if kind is None:
        found = printable(stored.get("type"), 60)
        raise InputError(f"{where} is of type {found!r}, expected one of {', '.join(KINDS)}")
    parts = {name: x for name, x in stored.items() if name not in ("type", "version")}
    values = {name: _from_dict(x, f"{where}.{name}", origin) for name, x in parts.items()}
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(values) - known:
        raise InputError(f"{where} has unknown fields {printable(sorted(unknown), 200)}: {origin}")
    for name, annotation in _annotations(kind).items():
        if name in values and not fits(values[name], annotation):
            found = printable(repr(values[name]), 60)
            raise InputError(f"{where}.{name} is {found}: expected {named(annotation)}; {origin}")
    for name, value in values.items():
        check_limit(f"{where}.{name}", value)
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where} is incomplete ({error}): {origin}") from error


_annotations = functools.cache(typing.get_type_hints)


def differences(a: object, b: object, prefix: str = "") -> dict[str, tuple[object, object]]:
    """The fields in which two results of to_dict differ: `{"stage.model.depth": (4, 8)}`."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return {} if a == b else {prefix: (a, b)}
    changed: dict[str, tuple[object, object]] = {}
    for name in dict.fromkeys([*a, *b]):
        changed |= differences(a.get(name), b.get(name), f"{prefix}.{name}" if prefix else name)
    return changed


def without_paths(config: Config) -> Config:
    """A configuration without the places of files, for others to read."""
    places = {path.rpartition(".")[2] for path in PATHS}
    own: dict[str, Any] = {field.name: "" for field in dataclasses.fields(config.stage) if field.name in places}
    stage, data = dataclasses.replace(config.stage, **own), dataclasses.replace(config.data, path="", vocabulary="")
    return dataclasses.replace(config, stage=stage, data=data, start_from="")


def load_file(name: str, variant: str = "") -> Config:
    """The configuration of configs/`name`.py, from the checkout or from the installed package."""
    paths = [folder / f"{name}.py" for folder in FOLDERS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"no configuration {name}: looked for {paths[0]} and {paths[1]}")
    get_config = runpy.run_path(str(path))["get_config"]
    return get_config(variant) if variant else get_config()


def tokenizer_of(name: str, variant: str = "") -> TokenizerConfig:
    """The tokenizer that the configuration of configs/`name`.py trains. Raises InputError if it trains none."""
    stage = load_file(name, variant).stage
    if not isinstance(stage, AutoencodeConfig):
        raise InputError(f"configs/{name}.py trains a {type(stage.model).__name__}: expected a tokenizer")
    return stage.model
