"""Every notebook of launch/ as a file, as it is before anything runs; test_played.py runs them."""

import ast
import glob
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "launch").glob("*.ipynb"))
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
PLACE = "(https://colab.research.google.com/github/OWNER/rqjax/blob/main/launch/{})"
CHIPS = bool(glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"))
FIELD = re.compile(r'^[A-Z_]+ = .*  # @param (\{type:"(string|boolean|integer|number)"\}|\[.*\].*)$')


def cells(path: pathlib.Path, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_a_notebook_has_the_form_of_one_and_no_outputs(notebook):
    book = json.loads(notebook.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert book["metadata"]["kernelspec"] == {"display_name": "Python 3", "name": "python3"}
    names = [cell["id"] for cell in book["cells"]]
    assert len(set(names)) == len(names)
    for cell in book["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            formed = "# @title" in "".join(cell["source"])
            assert cell["metadata"] == ({"cellView": "form"} if formed else {})


def test_a_notebook_opens_on_colab_from_its_badge(notebook):
    title, badge, *_ = cells(notebook, "markdown")[0].split("\n\n")
    assert title.startswith("# ")
    assert badge == BADGE + PLACE.format(notebook.name)
    assert notebook.name in (ROOT / "README.md").read_text()


def test_code_parses_and_form_fields_have_types(notebook):
    for code in cells(notebook, "code"):
        ast.parse(code)  # and so there are no magics, which only notebooks know
        for line in code.splitlines():
            assert "@param" not in line or FIELD.fullmatch(line), line


def test_all_begin_with_the_same_cell(notebook):
    assert cells(notebook, "code")[0] == cells(NOTEBOOKS[0], "code")[0]


def played_setup(tmp_path, driver: str = "", **environ: str) -> str:
    """The words of the first cell where nvidia-smi tells of a driver, or fails; the extra; if JAX is imported."""
    answer = f"echo {driver}" if driver else "exit 9"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    code = cells(NOTEBOOKS[0], "code")[0] + "\nprint(extra(), 'jax' in sys.modules)"
    # a folder without rqjax above it, whose installed form is found all the same
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("driver", "environ", "hardware", "extra"),
    [
        pytest.param("", {}, "CPU", "", marks=pytest.mark.skipif(CHIPS, reason="this machine has TPU chips")),
        ("", {"COLAB_TPU_1VM": "1"}, "TPU", "tpu"),
        ("550.54.15", {}, "NVIDIA GPU", "cuda12"),
        ("580.65.06", {}, "NVIDIA GPU", "cuda13"),
    ],
)
def test_the_first_cell_finds_the_hardware_without_jax(tmp_path, driver, environ, hardware, extra):
    first, second = played_setup(tmp_path, driver, **environ).splitlines()
    assert re.match(rf"{hardware}; Python 3\.\d+\.\d+, rqjax [\d.]+, jax [\d.]+, flax ", first)
    assert second == f"{extra} False"
