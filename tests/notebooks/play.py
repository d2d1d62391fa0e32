"""Plays a notebook from top to bottom, as a person who fills in its forms and presses Run all:

    python play.py NOTEBOOK FOLDER NAME=VALUE ...

VALUE is a Python literal, for the form field NAME. Cells run in FOLDER, by a kernel of this interpreter that sees CPUs
alone; the notebook with all that they made is FOLDER/played.ipynb. A cell that fails ends it with its traceback, and a
status that is not 0.
"""

import ast
import os
import pathlib
import re
import sys
import time

import nbformat
from nbclient import NotebookClient

SECONDS = 1800
"""Of one cell at most: training and compiling beside other work."""


def filled(cells: list[nbformat.NotebookNode], name: str, value: object) -> None:
    """Sets a form field, of which there has to be one."""
    field = re.compile(rf"^{name} = .*(?=  # @param)", re.MULTILINE)
    found = [cell for cell in cells if cell.cell_type == "code" and field.search(cell.source)]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} cells have a form field {name}: expected one")
    found[0].source = field.sub(lambda _: f"{name} = {value!r}", found[0].source)


def play(notebook: pathlib.Path, folder: pathlib.Path, fields: dict[str, object]) -> None:
    """Runs all cells and keeps them with their outputs, also if one fails."""
    book = nbformat.read(notebook, as_version=nbformat.NO_CONVERT)
    nbformat.validate(book)
    for name, value in fields.items():
        filled(book.cells, name, value)
    since = time.monotonic()

    def say(cell: nbformat.NotebookNode, cell_index: int, **_: object) -> None:
        print(f"{notebook.stem}: cell {cell_index} done after {time.monotonic() - since:.0f} s", flush=True)

    client = NotebookClient(
        book,
        timeout=SECONDS,
        resources={"metadata": {"path": str(folder)}},
        on_cell_executed=say,
        kernel_name="python3",
    )
    try:
        client.execute(env=dict(os.environ, JAX_PLATFORMS="cpu"))
    finally:
        nbformat.write(book, folder / "played.ipynb")


if __name__ == "__main__":
    words = (word.partition("=") for word in sys.argv[3:])
    values = {name: ast.literal_eval(value) for name, _, value in words}
    play(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), values)
