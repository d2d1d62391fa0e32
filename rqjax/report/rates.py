"""Rate against distortion of the tokenizers of several runs, and the codes that they leave unused."""

import dataclasses
import html
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from rqjax.evaluation.curve import Point, comparison, table, verdict
from rqjax.evaluation.kept import Kept
from rqjax.interface import AT_FIXED_PLACES
from rqjax.report.charts import png_of
from rqjax.report.pieces import download, figure, rows_of
from rqjax.run.log import Line
from rqjax.run.validation import PREFIX

AXES = {"mse": "mean squared error", "psnr": "PSNR, dB", "lpips": "LPIPS"}
FROM = "rqjax evaluate --tokenizer"


def section(kept: Mapping[str, Kept]) -> str:
    """The curves of runs by name: a verdict and a colour for each, the charts, and every point. Empty for no runs."""
    if not kept:
        return ""
    curves = {name: found.points for name, found in kept.items()}
    colours = dict(zip(curves, _colours(len(curves)), strict=True))
    first, *others = kept.items()
    parts = [
        "<h2>Rate and distortion</h2>",
        f'<p class="note">Measured by <code>{FROM}</code>, or at the end of a quickstart. The bits of an image are log2'
        " of the codebook's size for each of its codes and, where regions get finer codes by their detail, what says"
        " which do.</p>",
        *[_words(name, found, colours[name]) for name, found in kept.items()],
        *[f"<p>{html.escape(_compared(first, other))}</p>" for other in others],
    ]
    there = {name: axis for name, axis in AXES.items() if any(_values(curves, name))}
    charts = [figure(_chart(curves, colours, *item), f"{item[1]} by bits", caption=False) for item in there.items()]
    parts.append(f'<div class="charts">{"".join(charts)}</div>')
    names = [field.name for field in dataclasses.fields(Point)]
    rows = [(run, *dataclasses.astuple(point)) for run, points in curves.items() for point in points]
    parts.append(f"<details><summary>All points</summary>{rows_of(('run', *names), rows)}")
    parts.append(f"<p>{download('rate_distortion.csv', table(curves))}</p></details>")
    return f"<section>{''.join(parts)}</section>"


def _values(curves: Mapping[str, Sequence[Point]], name: str) -> list[bool]:
    return [getattr(point, name) is not None for points in curves.values() for point in points]


def _colours(count: int) -> list[str]:
    return [matplotlib.colors.to_hex(rgba) for rgba in matplotlib.colormaps["turbo"](np.linspace(0.1, 0.9, count))]


def _words(name: str, kept: Kept, colour: str) -> str:
    """One run in words; names stand here and not in the charts, whose fonts have few letters."""
    dashes = " Dashes: fixed places." if any(point.series == AT_FIXED_PLACES for point in kept.points) else ""
    key = f'<span class="key" style="background:{colour}"></span>'
    of = f"{kept.images:,} images ({html.escape(kept.source)}), step {kept.step:,}."
    return f"<p>{key}<b>{html.escape(name)}</b>, {of} {html.escape(verdict(kept.points))}{dashes}</p>"


def _compared(first: tuple[str, Kept], second: tuple[str, Kept]) -> str:
    """Two runs in words, and whether they were measured on unlike images."""
    names, (a, b) = (first[0], second[0]), (first[1], second[1])
    alike = (a.images, a.source) == (b.images, b.source)
    return comparison(names, (a.points, b.points)) + ("" if alike else " Their images are not the same.")


def _chart(curves: Mapping[str, Sequence[Point]], colours: Mapping[str, str], name: str, axis: str) -> bytes:
    """The PNG of one measure of the error by bits; series of points are joined."""
    drawn = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = drawn.add_subplot()
    for run, points in curves.items():
        for series in dict.fromkeys(point.series for point in points):
            found = sorted((p.bits, y) for p in points if p.series == series and (y := getattr(p, name)) is not None)
            x, y = np.array(found, float).reshape(-1, 2).T
            style = "--x" if series == AT_FIXED_PLACES else "-o"
            axes.plot(x, y, style, color=colours[run], ms=4, linewidth=1.4)
    axes.set_xlabel("bits of an image")
    axes.set_ylabel(axis)
    if name == "mse" and all(point.mse > 0 for points in curves.values() for point in points):
        axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    return png_of(drawn)


def unused(kept: Kept | None, lines: Sequence[Line]) -> str:
    """A table of the codes of each depth or grain that held-out images leave unused: as `evaluate` counted them, else
    their share in the newest validation; and of those that the newest logged step restarted. Empty if nothing is known.
    """
    newest = {name: x for line in lines for name, x in line.items() if x is not None}
    stem = f"{PREFIX}usage"
    logged = {n.removeprefix(stem).removeprefix("_"): x for n, x in newest.items() if n.startswith(stem)}
    books = kept.codes if kept else {end: {"usage": usage} for end, usage in logged.items()}
    rows = []
    for name, found in books.items():
        dead, size = 1 - found["usage"], found.get("size")
        perplexity = found.get("perplexity", newest.get(f"{PREFIX}perplexity_{name}".rstrip("_")))
        again = newest.get(f"restarted_{name}", newest.get("restarted"))
        count = f"{round(dead * size):,} of {round(size):,}" if size else ""
        rows.append((name or "all", count, f"{dead:.1%}", perplexity, "" if again is None else f"{again:.2%}"))
    if not rows:
        return ""
    of = f"{kept.images:,} held-out images, step {kept.step:,}" if kept else "the newest validation"
    head = ("codes of", "unused", "share", "perplexity", "restarted in a step")
    return f'<h3>Unused codes</h3>{rows_of(head, rows)}<p class="note">Unused by {html.escape(of)}.</p>'
