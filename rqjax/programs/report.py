"""One self-contained page about a set of runs: `rqjax report --runs runs/a,runs/b --out report.html`."""

import base64
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rqjax.errors import InputError
from rqjax.flags.report import OUT, OVERWRITE, RUNS
from rqjax.run.log import Line, read_metrics
from rqjax.store import outputs

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
figure { margin: 1rem 0; } figcaption { color: GrayText; font-size: .9rem; }
img { max-width: 100%; background: white; image-rendering: pixelated; }
img.curve { image-rendering: auto; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
tr { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
"""


def main(_: Sequence[str]) -> None:
    """Writes a page with the curves of the runs that the flags name."""
    if not RUNS.value:
        raise InputError("report needs --runs DIR[,DIR ...]")
    out = outputs.checked(OUT.value, (".html", ".htm"), overwrite=OVERWRITE.value)
    runs = {pathlib.Path(run).name: read_metrics(run) for run in RUNS.value}
    if empty := [name for name, lines in runs.items() if not lines]:
        raise InputError(
            f"{', '.join(empty)}: no metrics.jsonl with lines in it: expected run directories of `rqjax train`"
        )
    write_report(out, "Training curves", runs=runs, pictures={}, summary={})
    print(out)


def write_report(
    path: pathlib.Path,
    title: str,
    *,
    runs: Mapping[str, Sequence[Line]],
    pictures: Mapping[str, pathlib.Path],
    summary: Mapping[str, object],
) -> None:
    """Writes a page that needs no other file: pictures by caption, curves by run, and the summary as a table."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for caption, file in pictures.items():
        parts.append(_figure(file.read_bytes(), caption, ""))
    if summary:
        parts.append(f"<h2>Figures</h2>{_cell(summary)}")
    for name, lines in runs.items():
        parts.append(f"<h2>{html.escape(name)}</h2>{_figure(_curves(lines), '', 'curve')}")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>"
    )
    outputs.write_text(path, page)


def _figure(png: bytes, caption: str, kind: str) -> str:
    data, text = base64.b64encode(png).decode(), html.escape(caption)
    image = f'<img class="{kind}" alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _cell(value: object) -> str:
    """A value as HTML: a mapping is a table, which may stand in a cell of another."""
    if isinstance(value, Mapping):
        rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{_cell(v)}</td></tr>" for k, v in value.items())
        return f"<table>{rows}</table>"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(x) for x in value)
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _curves(lines: Sequence[Line]) -> bytes:
    """One small chart per metric; those with a number per depth share one."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for line in lines for name in line if name != "step"):
        stem, _, last = name.rpartition("_")
        groups.setdefault(stem if last.isdigit() else name, []).append(name)
    columns = 3
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(12, 2.4 * rows), layout="constrained")
    for place, (group, names) in enumerate(groups.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        for name in names:
            points = [(line["step"], y) for line in lines if (y := line.get(name)) is not None]
            axes.plot(*np.array(points, float).reshape(-1, 2).T, label=name.rpartition("_")[2], linewidth=1.2)
        axes.set_title(group.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=6, title="depth", title_fontsize=6)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
