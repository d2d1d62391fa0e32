"""The console script: `rqjax VERB --flag ...`."""

import importlib
import io
import logging as python_logging
import os
import sys
import warnings
from typing import Any, NoReturn

from absl import flags, logging

import rqjax
from rqjax.errors import INTERRUPTED, InputError, Interrupted, RunError, printable
from rqjax.flags import cache
from rqjax.flags.configuration import spelled
from rqjax.run import host_memory

VERBS = {
    "quickstart": "both stages on the embedded images, from nothing to a report",
    "train": "train one stage",
    "sample": "new images from a prior",
    "reconstruct": "images through a tokenizer and back",
    "encode": "a set of images by a tokenizer, once, for priors to train on",
    "evaluate": "the figures of papers: of reconstructions, of samples at several guidance scales",
    "demo": "a local page: images by a form, one's own with their codes",
    "thresholds": "the entropy thresholds of a data set, for a DQ-VAE's router",
    "configs": "the configurations that are shipped, by name",
    "compile": "what a step would cost on a TPU slice, by its compiler and without the slice",
    "report": "the training curves of runs as one page",
    "convert": "models to and from PyTorch's files and safetensors",
}
TAKES_WORDS = {"report"}
"""Verbs whose inputs may stand behind them without a flag."""
LIGHT = {"configs"}
"""Verbs that need no JAX."""
TRAINING = {"quickstart", "train"}
"""Verbs that take training steps."""


def main() -> None:
    """Runs the verb in sys.argv[1] on the rest of the line; exits with 2 and one line on input that cannot be used,
    with 1 and one line if a run cannot go on, with 130 and one line after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever a file is called, its name can be printed
    verb, words = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if verb in ("", "-h", "--help", "help"):
        print("usage: rqjax VERB [--flag=value ...]      rqjax VERB --help lists its flags\n")
        print("\n".join(f"  {name:<12} {meaning}" for name, meaning in VERBS.items()))
        sys.exit(0 if verb else 2)
    if verb == "--version":
        print(f"rqjax {rqjax.__version__}")
        return
    if verb not in VERBS:
        _refuse(f"unknown verb {verb!r}: expected one of {', '.join(VERBS)}")
    try:
        _run(verb, words)
    except BrokenPipeError:
        if verb not in LIGHT:
            raise
        os._exit(1)  # the reader of the list has seen enough
    except (InputError, RunError) as error:
        _refuse(str(error), status=2 if isinstance(error, InputError) else 1)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}: choose another file or folder, or open this one to you")
    except Interrupted as error:
        _say(str(error))
        sys.exit(INTERRUPTED)  # all processes of a run have saved
    except (MemoryError, RuntimeError) as error:  # JAX's error for a device whose memory is full is a RuntimeError
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = _one_line(error)[:160]
        _refuse(f"{verb}: not enough memory ({reason}): take smaller batches, or fewer images", status=1)
    except KeyboardInterrupt:
        _refuse(f"{verb}: interrupted", INTERRUPTED)


def _run(verb: str, words: list[str]) -> None:
    """Prints the help of a verb, or runs its program. Help and mistakes in flags import no JAX: they answer at once."""
    described = importlib.import_module(f"rqjax.flags.{verb}")
    if {"--help", "-h"} & set(words):
        print(described.__doc__, described.FLAGS.get_help(), sep="\n")
        return
    rest = _parse(verb, described.FLAGS, words)
    if verb in TRAINING and "jax" not in sys.modules:  # a process that has begun has threads, and plans of its own
        host_memory.keep_freed()
    if verb not in LIGHT:
        _quieten()
    if cache.NAME in described.FLAGS:
        from rqjax.run import compilation  # here, since it imports JAX

        compilation.keep(described.FLAGS[cache.NAME].value)
    importlib.import_module(f"rqjax.programs.{verb}").main(rest)


def _parse(verb: str, values: flags.FlagValues, words: list[str]) -> list[str]:
    """Parses a verb's flags; every error becomes one line."""
    flags.FLAGS.mark_as_parsed()  # libraries ask absl's global flags, which no program here uses
    values.unparse_flags()
    for name in values:
        values[name].unparse()  # what an earlier line in this process has set
    try:
        rest = values([verb, *spelled(words)])
    except (flags.Error, KeyError, ValueError, TypeError) as error:
        _refuse(f"{verb}: {_one_line(error)}")
    if len(rest) > 1 and verb not in TAKES_WORDS:
        _refuse(f"{verb}: unexpected words {rest[1:]}: every input is a --flag")
    return rest


def _one_line(error: Exception) -> str:
    """The first and the last line of a message."""
    lines = [line.strip(" '\"") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def _quieten() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)  # orbax prints the traceback of every error that it raises as well
    python_logging.getLogger("jax").setLevel(python_logging.ERROR)
    # but that a GPU or TPU is there and not used, which makes a run a hundred times slower, is its user's business
    backends = python_logging.getLogger("jax._src.xla_bridge")
    backends.setLevel(python_logging.WARNING)
    backends.addFilter(lambda record: record.levelno > python_logging.WARNING or "alling back" in record.getMessage())
    # a save that failed has been reported; what else comes of it is noise
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _report_unraisable
    from rqjax.run import hosts  # here, since it imports JAX

    hosts.quieten_libtpu()


def _report_unraisable(error: Any) -> None:
    """Prints an error that nothing could catch, unless a failed save is its cause.

    tensorstore ends writes after orbax has closed its event loop.
    """
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)


def _say(message: str) -> None:
    print(f"rqjax: {printable(message)}", file=sys.stderr)


def _refuse(message: str, status: int = 2) -> NoReturn:
    _say(message)
    if "jax" in sys.modules:  # one of several processes has to take the others along
        from rqjax.run import hosts

        hosts.leave(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
