"""Charts of the scalars of a run: one for each figure, those by depth or grain together, held-out beside training."""

import dataclasses
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from rqjax.run.log import Line
from rqjax.run.validation import PREFIX

PARTS = ("coarse", "median", "fine")
"""Ends of the names of figures of a grain, beside the numbers of depths."""
FIRST = ("loss", "reconstruction", "lpips", "image loss", "content loss", "position loss", "psnr", "ssim", "accuracy")
LAST = ("gradient norm", "learning rate", "images per second", "skipped", "padding", "unplaced")
UNITS = {"psnr": "dB", "learning rate": "rate", "images per second": "images / s", "skipped": "steps"}


@dataclasses.dataclass(frozen=True)
class Curve:
    """The values of one figure: `name` in the log, `part` the depth or grain, empty for the whole."""

    name: str
    part: str

    @property
    def held_out(self) -> bool:
        return self.name.startswith(PREFIX)


def groups(lines: Sequence[Line]) -> dict[str, list[Curve]]:
    """The curves of each chart by its title, those that matter most in front."""
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    found: dict[str, list[Curve]] = {}
    for name in names:
        stem, _, end = name.removeprefix(PREFIX).rpartition("_")
        part = end if stem and (end.isdigit() or end in PARTS) else ""
        title = (stem if part else name.removeprefix(PREFIX)).replace("_", " ")
        found.setdefault("loss" if title == "loss total" else title, []).append(Curve(name, part))
    for title in ("psnr", "ssim"):  # the whole is that of the last depth
        found[title] = [c for c in found.get(title, []) if c.part] or found.get(title, [])
    ranks = {name: i - len(FIRST) for i, name in enumerate(FIRST)} | {name: i + 1 for i, name in enumerate(LAST)}
    return {title: found[title] for title in sorted(found, key=lambda t: ranks.get(t, 0)) if found[title]}


def chart(title: str, curves: Sequence[Curve], lines: Sequence[Line]) -> bytes:
    """The PNG of one chart; held-out figures are dashed, with a dot where they were taken."""
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    parts = sorted({curve.part for curve in curves}, key=lambda part: (len(part), part))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(parts)))
    for curve in curves:
        points = [(line["step"], y) for line in lines if (y := line.get(curve.name)) is not None]
        style, dots = ("--", "o") if curve.held_out else ("-", "")
        label = " ".join(filter(None, (curve.part, "held out" if curve.held_out else "")))
        colour = colours[parts.index(curve.part)]
        axes.plot(
            *np.array(points, float).reshape(-1, 2).T,
            color=colour,
            linestyle=style,
            marker=dots,
            ms=3,
            linewidth=1.4,
            label=label,
        )
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel(UNITS.get(title, title))
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        _legend(axes, curves, parts)
    return png_of(figure)


def png_of(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=140)
    return out.getvalue()


def _legend(axes: matplotlib.axes.Axes, curves: Sequence[Curve], parts: Sequence[str]) -> None:
    """One entry for each colour, and for the dashes if both kinds of line are there."""
    numbered = [part for part in parts if part]
    handles = dict(zip([curve.name for curve in curves], axes.get_lines(), strict=True))
    shown = {part: next(handles[c.name] for c in curves if c.part == part) for part in numbered}
    if len(numbered) < len(parts) and numbered:
        shown["all"] = next(handles[c.name] for c in curves if not c.part)
    held = [c for c in curves if c.held_out]
    if held and len(held) < len(curves):
        shown |= {"held out": handles[held[0].name]} | ({} if numbered else {"training": axes.get_lines()[0]})
    title = "depth" if numbered and numbered[0].isdigit() else None
    axes.legend(shown.values(), shown.keys(), fontsize=8, title=title, title_fontsize=8, ncols=1 + (len(shown) > 4))
