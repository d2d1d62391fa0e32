"""A notebook among the packages of Colab's runtime: its first cell brings up to date what has to be, and no more."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.notebooks.test_played import ROOT, play

PACKAGES = pathlib.Path(__file__).parent / "colab.txt"
CHANGED = {"absl-py", "etils", "flax", "jax", "jaxlib", "orbax-checkpoint"}
"""Of them, those too old for rqjax. NumPy is not, so that a kernel that has imported it need not start again."""
pytestmark = [pytest.mark.slow, pytest.mark.notebook]


def version(python: str) -> tuple[int, ...]:
    """The version of an interpreter; (0,) if there is none."""
    try:
        said = subprocess.run([python, "--version"], capture_output=True, text=True)
    except OSError:
        return (0,)
    return tuple(map(int, said.stdout.split()[1].split("."))) if said.returncode == 0 else (0,)


def colabs_python() -> str:
    """Python 3.13, which Colab has, where there is one, or COLAB_PYTHON names it; else the one that runs this."""
    named = os.environ.get("COLAB_PYTHON", "python3.13")
    return named if version(named)[:2] == (3, 13) else sys.executable


def installed(python: pathlib.Path) -> dict[str, str]:
    """The versions of an environment's packages, by name."""
    frozen = subprocess.run([python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True).stdout
    lines = [line.partition("==") for line in frozen.splitlines()]
    return {name.lower().replace("_", "-"): found for name, equals, found in lines if equals}


def test_colabs_packages_are_enough(tmp_path, capsys):
    chosen = colabs_python()
    with capsys.disabled():
        print(f"\nColab's packages with Python {'.'.join(map(str, version(chosen)))} (Colab has 3.13)")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([chosen, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", PACKAGES, "ipykernel", "nbclient"], check=True)
    before = installed(python)
    played = play("sample_rq", tmp_path, python, SMALL=True, REPOSITORY=str(ROOT))
    after = installed(python)
    assert {name for name, found in before.items() if after.get(name) != found} == CHANGED
    assert f"jax {after['jax']}" in played.stream("stdout").splitlines()[0]
    assert len(played.pictures()) == 7
