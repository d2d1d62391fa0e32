"""Configurations by name or path, and the fields that their users set: each mistake is one line."""

import difflib
import inspect
import pathlib
import runpy
import traceback
from typing import Any

from rqjax.data.config import EMBEDDED
from rqjax.dq.vae import GrainConfig
from rqjax.errors import InputError
from rqjax.flags.configuration import Asked
from rqjax.run import fields
from rqjax.run.config import Config
from rqjax.run.shipped import shipped


def load(asked: Asked) -> Config:
    """The configuration that a command line asks for, with the fields that it sets.

    Raises InputError for names that don't exist, for a file that is no configuration, with its line, and for fields
    that don't exist or don't take their values. Thresholds come from a table where a field names one. A `data.path`
    where the configuration has the packaged images is a folder of other images, unless a `data.name` says more.
    """
    path, variant = _find(asked.name)
    config = _made_by(path, variant)
    for field in asked.fields:
        name, equals, word = field.partition("=")
        fields.assign(config, name, word if equals else None)
    if config.data.name == EMBEDDED and config.data.path and "data.name" not in asked.given:
        config.data.name = "folder"
    model = config.stage.model
    if isinstance(model, GrainConfig) and model.routing.thresholds_path:
        model.routing = model.routing.with_thresholds(model.resolution // max(model.grids[0], 1))
    return config


def _find(name: str) -> tuple[pathlib.Path, str]:
    """The file and the variant of `name`, "quickstart:rqvae" or "folder/mine.py"."""
    whole = pathlib.Path(name).expanduser()
    base, _, variant = (name, "", "") if whole.is_file() or ":" not in name else name.rpartition(":")
    path = pathlib.Path(base).expanduser()
    known = {config.name: config.path for config in shipped()}
    if base in known:
        return known[base], variant
    near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.6)
    hint = (
        f"did you mean {near[0]}? `rqjax configs` lists all" if near else "`rqjax configs` lists those of the package"
    )
    if path.is_dir():
        raise InputError(f"--config {base} is a folder: expected a Python file, or a name; {hint}")
    if not path.is_file():
        kind = "no such file" if path.suffix or len(path.parts) > 1 else "no such configuration"
        raise InputError(f"--config {base}: {kind}; {hint}")
    if path.suffix != ".py":
        raise InputError(f"--config {base}: expected a Python file with a function get_config, or a name; {hint}")
    return path, variant


def _made_by(path: pathlib.Path, variant: str) -> Config:
    """The result of a file's get_config. The file is its user's program: it may do anything, and fail in any way."""
    try:
        made = runpy.run_path(str(path))
        get_config = made.get("get_config")
        if not callable(get_config):
            raise InputError("has no function get_config: expected one that returns an rqjax.run.config.Config")
        if variant and not inspect.signature(get_config).parameters:
            raise InputError(f"variant {variant!r}: its get_config takes none")
        config = get_config(variant) if variant else get_config()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise InputError(f"{path}{_line(error.lineno)}: {error.msg}") from None
    except SystemExit as error:
        raise InputError(f"{path}{_line(_line_in(path, error))}: ends the program (SystemExit)") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}{_line(_line_in(path, error))}: {type(error).__name__}: {reason}") from None
    if not isinstance(config, Config):
        line = getattr(getattr(get_config, "__code__", None), "co_firstlineno", None)
        raise InputError(
            f"{path}{_line(line)}: get_config returns a {type(config).__name__}: expected an rqjax.run.config.Config"
        )
    return config


def _line(number: int | None) -> str:
    return "" if number is None else f", line {number}"


def _line_in(path: pathlib.Path, error: BaseException) -> int | None:
    """The last line of a file that an error came through."""
    frames: list[Any] = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
