"""The console script: `rqjax VERB --flag ...`."""

import importlib
import logging as python_logging
import os
import sys
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections.config_flags import config_flags

from rqjax.errors import InputError, RunError
from rqjax.run import hosts

VERBS = {
    "quickstart": "both stages on the embedded images, from nothing to a report",
    "train": "train one stage",
    "sample": "new images from a prior",
    "reconstruct": "images through a tokenizer and back",
    "thresholds": "the entropy thresholds of a data set, for a DQ-VAE's router",
    "compile": "what a step would cost on a TPU slice, by its compiler and without the slice",
    "report": "the training curves of runs as one page",
    "convert": "models to and from PyTorch's files and safetensors",
}


def main() -> None:
    """Runs the verb in sys.argv[1] on the rest of the line; exits with 2 and one line on input that cannot be used,
    with 1 and one line if a run cannot go on.
    """
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print("usage: rqjax VERB [--flag=value ...]      rqjax VERB --help lists its flags\n")
        print("\n".join(f"  {verb:<12} {what}" for verb, what in VERBS.items()))
        sys.exit(0 if len(sys.argv) > 1 else 2)
    verb = sys.argv[1]
    if verb not in VERBS:
        _refuse(f"unknown verb {verb!r}: expected one of {', '.join(VERBS)}")
    _quieten()
    try:
        program = importlib.import_module(f"rqjax.programs.{verb}")
        if {"--help", "-h"} & set(sys.argv):
            print(program.__doc__, program.FLAGS.get_help(), sep="\n")
        else:
            program.main(_parse(verb, program.FLAGS, sys.argv[2:]))
    except (InputError, RunError) as error:
        _refuse(str(error), status=2 if isinstance(error, InputError) else 1)


def _parse(verb: str, values: flags.FlagValues, words: list[str]) -> list[str]:
    """Parses a program's own flags; every error becomes one line."""
    flags.FLAGS.mark_as_parsed()  # libraries ask absl's global flags, which no program here uses
    values.unparse_flags()
    try:
        rest = values([verb, *words])
    except (flags.Error, KeyError, ValueError, TypeError) as error:
        _refuse(f"{verb}: {_one_line(error)}")
    for name in values:
        if isinstance(values[name].value, config_flags._ErrorConfig):
            _refuse(f"{verb}: --{name}: {_cause(values[name].value)}")
    if len(rest) > 1:
        _refuse(f"{verb}: unexpected words {rest[1:]}: every input is a --flag")
    return rest


def _cause(broken: object) -> str:
    """The error of a configuration file that could not be read, as one line."""
    try:
        broken.steps  # noqa: B018  # pyrefly: ignore  (any attribute raises the stored error)
    except Exception as error:  # the configuration file is the user's code: it may raise anything
        return _one_line(error)
    return "cannot be read"


def _one_line(error: Exception) -> str:
    """The first and the last line of a message."""
    lines = [line.strip(" '\"") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def _quieten() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)  # orbax prints the traceback of every error that it raises as well
    python_logging.getLogger("jax").setLevel(python_logging.ERROR)
    # a save that failed has been reported; what else comes of it is noise
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    sys.unraisablehook = _report_unraisable
    hosts.quieten_libtpu()


def _report_unraisable(error: Any) -> None:
    """Prints an error that nothing could catch, unless a failed save is its cause.

    tensorstore ends writes after orbax has closed its event loop.
    """
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)


def _refuse(message: str, status: int = 2) -> NoReturn:
    print(f"rqjax: {message}", file=sys.stderr)
    hosts.leave(status)


if __name__ == "__main__":
    main()
