"""One self-contained page: pictures and figures that a program gives, and all that run directories hold."""

import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from rqjax.errors import InputError
from rqjax.evaluation import curve, kept
from rqjax.report import rates
from rqjax.report.charts import chart, groups
from rqjax.report.pieces import cell, figure, scroll, table
from rqjax.run import fields
from rqjax.run.alarms import Alarm, read_alarms
from rqjax.run.config import from_dict
from rqjax.run.ledger import NAMES, duration, read_ledger
from rqjax.run.log import Line, read_metrics
from rqjax.run.previews import found_previews
from rqjax.store import outputs
from rqjax.store.remote import Path, to_path

EARLIER = 3
"""Earlier pictures of a name that are shown beside the newest."""
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 1.5rem auto; padding: 0 1rem;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 3rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
figure { margin: 0 0 1rem; } figcaption, .note { opacity: .75; font-size: .9rem; }
img { max-width: 100%; height: auto; background: white; border-radius: .2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.charts img { width: 100%; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; }
th { font-weight: 500; } td { font-variant-numeric: tabular-nums; }
tr { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
.bar { display: inline-block; height: .7em; background: #3b6fb6; min-width: 1px; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 50%; }
summary { cursor: pointer; margin: 1rem 0 .5rem; }
@media (max-width: 40rem) {
  .fields { overflow-wrap: anywhere; } .fields :is(th, td) { display: block; padding: 0; }
}
"""


def write_report(
    path: pathlib.Path,
    title: str,
    *,
    runs: Sequence[str | os.PathLike[str]],
    pictures: Mapping[str, pathlib.Path],
    summary: Mapping[str, object],
) -> None:
    """Writes a page that needs no other file: pictures by caption, the summary as a table, what is known of rate and
    distortion, also as CSV beside the page, and a section for each run.

    Damaged files of a run are left out. Raises InputError for runs without a single line of metrics.
    """
    places = list(dict.fromkeys(to_path(run) for run in runs))
    metrics = {place: read_metrics(place) for place in places}
    if empty := [str(place) for place, lines in metrics.items() if not lines]:
        raise InputError(
            f"{', '.join(empty)}: no metrics.jsonl with lines in it: expected run directories of `rqjax train`"
        )
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [figure(file.read_bytes(), caption) for caption, file in pictures.items()]
    if summary:
        parts.append(f"<h2>Figures</h2>{scroll(cell(summary))}")
    names = dict(zip(distinct_names(places), places, strict=True))
    measured = {name: found for name, place in names.items() if (found := kept.read(place))}
    parts.append(rates.section(measured))
    for name, place in names.items():
        parts.append(_section(name, place, metrics[place], measured.get(name)))
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>"
    )
    if measured:
        points = {name: found.points for name, found in measured.items()}
        outputs.write_text(path.with_name(csv_name(path.name)), _utf8(curve.table(points)))
    outputs.write_text(path, _utf8(page))


def _utf8(text: str) -> str:
    """The same, with bytes of names of files that are no UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def csv_name(page: str) -> str:
    """The name of the file beside a page with the points of rate and distortion."""
    return f"{pathlib.PurePath(page).stem}_rate_distortion.csv"


def distinct_names(places: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell all of them apart, as many parts of each."""
    parts = [place.parts for place in places]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def _section(name: str, place: Path, lines: Sequence[Line], measured: kept.Kept | None) -> str:
    """All that a run's directory holds, newest pictures first."""
    last = max(int(line["step"] or 0) for line in lines)
    parts = [f"<h2>{html.escape(name)}</h2>", f'<p class="note">{html.escape(str(place))}, up to step {last}</p>']
    parts += [_warnings(place), _pictures(place)]
    charts = [figure(chart(title, curves, lines), title, caption=False) for title, curves in groups(lines).items()]
    parts.append(f'<div class="charts">{"".join(charts)}</div>')
    parts += [rates.unused(measured, lines), _times(place), _configuration(place)]
    return f"<section>{''.join(parts)}</section>"


def _warnings(place: Path) -> str:
    """The warnings of a run: the newest sentence of each cause, and how often there was one."""
    by_cause: dict[str, list[Alarm]] = {}
    for alarm in read_alarms(place):
        by_cause.setdefault(alarm.cause, []).append(alarm)
    rows = []
    for found in by_cause.values():
        since = f", {len(found)} times from step {found[0].step:,} on" if len(found) > 1 else ""
        rows.append(f"<li>Step {found[-1].step:,}{since}: {html.escape(found[-1].said)}</li>")
    return f"<h3>Warnings</h3><ul>{''.join(rows)}</ul>" if rows else ""


def _pictures(place: Path) -> str:
    """The newest picture of each name, and some of the earlier ones behind a click."""
    by_name: dict[str, list[tuple[int, Path]]] = {}
    for step, name, path in found_previews(place):
        by_name.setdefault(name, []).append((step, path))
    parts = []
    for name, found in by_name.items():
        shown = [figure(path.read_bytes(), f"{name}, step {step}") for step, path in found]
        earlier = shown[:-1][:: max(1, -(-(len(shown) - 1) // EARLIER))]
        parts.append(shown[-1])
        if earlier:
            parts.append(f"<details><summary>Earlier {html.escape(name)}</summary>{''.join(earlier)}</details>")
    return "".join(parts)


def _times(place: Path) -> str:
    """Where the time went."""
    ledger = read_ledger(place)
    whole = sum(ledger.get(name, 0.0) for name in NAMES)
    if not whole:
        return ""
    rows = []
    for name in NAMES:
        share = ledger.get(name, 0.0) / whole
        bar = f'<span class="bar" style="width:{6 * share:.2f}rem"></span>'
        rows.append(
            f"<tr><th>{name}</th><td>{duration(ledger.get(name, 0.0))}</td><td>{share:.1%}</td><td>{bar}</td></tr>"
        )
    starts = int(ledger.get("starts", 1))
    over = f" over {starts} starts" if starts > 1 else ""
    return f"<h3>Where the time went: {duration(whole)}{over}</h3>{table(rows)}"


def _configuration(place: Path) -> str:
    """Every field with its value and meaning; nothing for a configuration that cannot be read."""
    try:
        config = from_dict(json.loads((place / "config.json").read_text()))
    except (OSError, ValueError):
        return ""
    rows = [
        f"<tr><th>{html.escape(field.name)}</th><td>{html.escape(field.word)}</td><td>{html.escape(field.meaning)}</td></tr>"
        for field in fields.listed(config)
    ]
    return f"<details><summary>Configuration</summary>{table(rows, 'fields')}</details>"
