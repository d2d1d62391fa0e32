"""Everything that a stage reads and never trains, from disk: a prior's tokenizer, a tokenizer's perceptual loss."""

import dataclasses

import jax
from jaxtyping import PyTree

from rqjax.errors import InputError
from rqjax.nets.init import DTYPES
from rqjax.run.config import Config, differences, to_dict
from rqjax.run.directory import TOKENIZER, Run
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store.model_folder import CONFIG
from rqjax.store.remote import Path
from rqjax.torchfile.lpips import check_there, load_lpips

COMPUTATION = ("dtype", "remat", "keep_products")
"""Fields of a tokenizer's configuration in which a prior's may differ from the run: the weights are the same."""


def with_tokenizer(config: Config, workdir: Path) -> Config:
    """`config` with a prior's `stage.tokenizer` filled in, if it is None, from the run that holds the tokenizer.

    That run is the copy in `workdir`, or else `stage.tokenizer_path`. Raises InputError if there is neither, or if its
    tokenizer is another one than the configuration's.
    """
    stage = config.stage
    if not isinstance(stage, PredictConfig):
        return config
    kept = kept_tokenizer(workdir)
    run = kept or _at(stage.tokenizer_path)
    stored = run.tokenizer_config
    if stage.tokenizer is None:
        return dataclasses.replace(config, stage=dataclasses.replace(stage, tokenizer=stored))
    changed = differences(to_dict(stored), to_dict(stage.tokenizer))
    wrong = [name for name in changed if name not in COMPUTATION]
    if wrong and kept is None:  # what is kept was compared before it was copied
        there, here = changed[wrong[0]]
        raise InputError(
            f"stage.tokenizer.{wrong[0]} is {here} and {there} in {run.path}: set it to that, or leave stage.tokenizer"
            " out (None), to be read from the run"
        )
    return config


def check(config: Config, workdir: Path) -> None:
    """Raises InputError if something is missing that a start in `workdir` reads, but for a prior's tokenizer."""
    if config.start_from and Run.find(workdir) is None:
        theirs, ours = Run.open(config.start_from).config.stage.model, config.stage.model
        if type(theirs) is not type(ours):
            kinds = f"holds a {type(theirs).__name__}, this run trains a {type(ours).__name__}"
            raise InputError(f"start_from={config.start_from} {kinds}: give a run of the same kind")
    if isinstance(config.stage, AutoencodeConfig) and config.stage.perceptual_weight:
        check_there(config.stage.vgg16_path)


def left_over(workdir: Path) -> bool:
    """Whether `workdir` has the copy of a tokenizer, made by a start that came to no checkpoint: it is nobody's.

    A run that was trained there has its config.json, which a copy has not.
    """
    copy = workdir / TOKENIZER
    return copy.is_dir() and not (copy / CONFIG).is_file() and Run.find(workdir) is None


def kept_tokenizer(workdir: Path) -> Run | None:
    """The copy of a tokenizer that the prior's run in `workdir` keeps, if there is one."""
    return None if left_over(workdir) else Run.find(workdir / TOKENIZER)


def tokenizer_run(stage: PredictConfig, workdir: Path) -> Run:
    """The run of a prior's tokenizer: the copy that `workdir` keeps, or else that at `stage.tokenizer_path`."""
    return kept_tokenizer(workdir) or _at(stage.tokenizer_path)


def load(config: Config, workdir: Path) -> PyTree[jax.Array]:
    """The arrays of the stage's `frozen_shapes`.

    A prior's tokenizer is copied into `workdir`, which then is enough to sample. Raises InputError for files that are
    missing or hold another model.
    """
    stage = config.stage
    if isinstance(stage, PredictConfig):
        kept = Run.find(workdir / TOKENIZER)
        run = kept or _at(stage.tokenizer_path)
        assert stage.tokenizer is not None  # with_tokenizer has filled it in
        tokenizer = run.weights(jax.eval_shape(stage.tokenizer.init, jax.random.key(0)))
        if kept is None:
            run.write(workdir / TOKENIZER, tokenizer)
        return {"tokenizer": tokenizer}
    if isinstance(stage, AutoencodeConfig) and stage.perceptual_weight:
        return load_lpips(stage.vgg16_path, dtype=DTYPES[stage.lpips_dtype], verify=stage.vgg16_verify)
    return None


def _at(path: str) -> Run:
    """The tokenizer's run at `stage.tokenizer_path`."""
    run = Run.find(path) if path else None
    if run is None:
        raise InputError(
            f"stage.tokenizer_path is {path!r}: expected the run directory of a trained tokenizer; train one first, or"
            " pass --config.stage.tokenizer_path=DIR"
        )
    return run.tokenizer()
