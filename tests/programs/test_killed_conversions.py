"""Conversions killed with `kill -9` at any moment: nothing half-written has the final name, and the next is whole."""

import functools
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import pytest

from rqjax.programs import convert
from rqjax.torchfile import file
from tests.conftest import equal
from tests.official_files import write

pytestmark = pytest.mark.slow

KILLS = 6
"""Of each direction."""
BEGUN = "ready"
HERE = pathlib.Path(__file__).parents[2]


def program(function: str, *words: str) -> None:
    """Says that it begins, and converts."""
    pathlib.Path(words[-1]).with_name(BEGUN).touch()
    getattr(convert, function)(*words)


def content(path: pathlib.Path) -> object:
    """All that a conversion has made: bytes of each file, or arrays where a checkpoint's files differ by chance."""
    if path.is_file():
        return file.load(path, verify=True)
    if (path / "checkpoints").is_dir():
        return convert.Run.open(path).model()
    return {str(found.relative_to(path)): found.read_bytes() for found in path.rglob("*") if found.is_file()}


def same(a: object, b: object) -> bool:
    return a == b if isinstance(a, dict) and all(isinstance(x, bytes) for x in a.values()) else equal(a, b)


def kill(function: str, words: list[str], out: pathlib.Path, span: float, chance: random.Random) -> None:
    """kill -9 within `span` seconds behind the beginning of a conversion."""
    begun = out.with_name(BEGUN)
    begun.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.programs.test_killed_conversions", function, *words, str(out)]
    with subprocess.Popen(command, cwd=HERE, env=os.environ | {"PYTHONPATH": str(HERE)}) as process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.005)
        if chance.random() < 0.5:  # while it writes
            while process.poll() is None and not list(out.parent.glob("*.part")):
                time.sleep(0.001)
            span /= 10
        time.sleep(chance.uniform(0, span))
        process.kill()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The arguments of each conversion but the last, where it writes."""
    folder = tmp_path_factory.mktemp("sources")
    official = list(write("rqvae", folder))
    convert.torch_to_folder(*official, str(folder / "folder"))
    convert.folder_to_run(str(folder / "folder"), str(folder / "run"))
    return {
        "torch_to_folder": official,
        "run_to_torch": [str(folder / "folder")],
        "run_to_folder": [str(folder / "run")],
        "folder_to_run": [str(folder / "folder")],
    }


@pytest.mark.parametrize("function", ["torch_to_folder", "run_to_torch", "run_to_folder", "folder_to_run"])
def test_a_killed_conversion_leaves_nothing_or_all_and_the_next_is_whole(function, sources, tmp_path, figures):
    name = "out.pt" if function == "run_to_torch" else "out"
    whole, out, chance = tmp_path / "whole" / name, tmp_path / "killed" / name, random.Random(function)
    run = functools.partial(getattr(convert, function), *sources[function])
    for folder in (whole.parent, out.parent):
        folder.mkdir()
    start = time.perf_counter()
    run(str(whole))
    span, expected, finished = time.perf_counter() - start, content(whole), 0
    for _ in range(KILLS):
        kill(function, sources[function], out, span, chance)
        if out.exists():  # the kill came behind the end
            finished += 1
        else:
            run(str(out))
        assert same(content(out), expected)
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    left = len(list(out.parent.glob(".*.part")))
    figures(f"{KILLS} kills of {function}", f"{KILLS - finished} before the end, {left} while it wrote; all equal")


if __name__ == "__main__":
    program(*sys.argv[1:])
