"""The fields of a configuration that a prior's tokenizer and the data decide, where the user has not set them."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from rqjax.data.config import DataConfig
from rqjax.errors import InputError
from rqjax.nets.condition import ClassCondition
from rqjax.run.config import Config, StageKind, differences, to_dict
from rqjax.run.dataset import few
from rqjax.run.directory import Run
from rqjax.run.frozen import COMPUTATION, tokenizer_run
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store.remote import Path


def tokenizer(config: Config, workdir: Path, given: Collection[str]) -> Config:
    """`config` with the tokenizer that the prior's run in `workdir` keeps, or else that of stage.tokenizer_path.

    Its configuration becomes stage.tokenizer; the fields of stage.model that describe its codes, and the size of the
    images, follow. `given` are the names of the fields that the user has set. Raises InputError if there is no
    tokenizer, if it is of another family, or if the user has set a field to something else. Configurations of other
    stages stay as they are.
    """
    stage = config.stage
    if not isinstance(stage, PredictConfig):
        return config
    run = tokenizer_run(stage, workdir)
    theirs: Any = run.tokenizer_config
    if isinstance(stage.tokenizer, type(theirs)):  # how it computes is the prior's own business
        theirs = dataclasses.replace(theirs, **{name: getattr(stage.tokenizer, name) for name in COMPUTATION})
    model: Any = dataclasses.replace(stage.model, **stage.model.following(theirs))  # pyrefly: ignore  (a dataclass)
    followed = dataclasses.replace(
        config, stage=dataclasses.replace(stage, tokenizer=theirs, model=model), data=_sized(config.data, run, given)
    )
    changed = differences(to_dict(followed), to_dict(config))
    if wrong := [name for name in changed if name in given and name != "stage.tokenizer"]:
        there, here = changed[wrong[0]]
        raise InputError(
            f"--config.{wrong[0]} is {here} and follows from the tokenizer in {run.path}, which needs {there}: leave"
            " the flag out, or give another stage.tokenizer_path"
        )
    return followed


def _sized(data: DataConfig, run: Run, given: Collection[str]) -> DataConfig:
    """Images as the tokenizer saw them: its size and, if that is another one, the side that they are cropped from."""
    resolution, theirs = run.tokenizer_config.resolution, run.config.data
    if data.size == resolution:
        return data
    resize = theirs.resize if theirs.size == resolution else resolution
    return dataclasses.replace(data, size=resolution, resize=data.resize if "data.resize" in given else resize)


def classes(config: Config, workdir: Path, names: Sequence[str], given: Collection[str]) -> Config:
    """`config` with as many classes as the data has `names`, if its model knows classes and the user set no number.

    A run that is resumed keeps its number. Data without names leave the configuration as it is.
    """
    stage: Any = config.stage
    before = Run.find(workdir)
    number = _classes(before.config.stage) if before else len(names)
    if not _classes(stage) or not number or "stage.model.classes" in given:
        return config
    model = dataclasses.replace(stage.model, classes=number)
    return dataclasses.replace(config, stage=dataclasses.replace(stage, model=model))


def check_classes(config: Config, workdir: Path, names: Sequence[str]) -> None:
    """Raises InputError if the data has more classes than the model that reads them or, at a run's start, fewer."""
    classes = _classes(config.stage)
    if not classes or not names or len(names) == classes or (len(names) < classes and Run.find(workdir)):
        return
    more = "take class folders away" if len(names) > classes else "give the data of all"
    raise InputError(
        f"the data has {len(names)} classes, stage.model.classes is {classes}: set it to {len(names)}, leave the flag"
        f" out, or {more}; there are {few(names)}"
    )


def _classes(stage: StageKind) -> int:
    """The number of classes that a stage's model knows; 0 if it asks for none."""
    if isinstance(stage, ClassifyConfig):
        return stage.model.classes
    if isinstance(stage, PredictConfig) and isinstance(stage.model.condition, ClassCondition):
        return stage.model.condition.classes
    return 0
