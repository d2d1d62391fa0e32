"""A result as JSON and as a table: figures, and everything that decides them."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import rqjax
from rqjax.evaluation.judges import fingerprint
from rqjax.evaluation.sets import settings
from rqjax.run.directory import Run
from rqjax.store import outputs

PIXELS = "round((clip(x, -1, 1) + 1) * 127.5)"
"""How a model's numbers become the bytes that are judged (data/images.py)."""


def of_run(run: Run, model: object, *, ema: bool) -> dict[str, object]:
    """Which weights were measured."""
    averaged = ema and run.has("ema")
    return {
        "path": str(run.path),
        "step": run.step,
        "weights": "averaged" if averaged else "last",
        "sha256": fingerprint(model),
        "model": type(run.config.stage.model).__name__,
        "parameters": sum(x.size for x in jax.tree.leaves(model)),
    }


def protocol(judge: Mapping[str, object] | None, **more: object) -> dict[str, object]:
    """All settings, beside the images."""
    return {"rqjax": rqjax.__version__, "bytes": PIXELS, "judge": judge, "sets": settings(), **more}


def write(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes a result; figures that are not finite are null."""
    outputs.write_text(path, json.dumps(_finite(result), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of cells by column, right below their names; what a row does not have is left out."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def turned(corner: str, rows: Mapping[str, Mapping[str, object]]) -> str:
    """The same with a row's name above its cells, and a line for each column: where columns are many."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return table([{corner: name, **{head: row.get(name) for head, row in rows.items()}} for name in names])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
