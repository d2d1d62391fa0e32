"""Pieces of a page that hold their content: pictures, tables, files to download. All text is escaped."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence


def figure(png: bytes, text: str, *, caption: bool = True) -> str:
    """A picture, and below it its text unless that is for those who do not see it."""
    data, text = base64.b64encode(png).decode(), html.escape(text)
    below = f"<figcaption>{text}</figcaption>" if caption else ""
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}">{below}</figure>'


def download(name: str, text: str) -> str:
    """A link that saves `text` as a file."""
    data = base64.b64encode(text.encode("utf-8", "backslashreplace")).decode()
    return f'<a download="{html.escape(name)}" href="data:text/csv;base64,{data}">{html.escape(name)}</a>'


def rows_of(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table with names of columns."""
    top = "".join(f"<th>{cell(name)}</th>" for name in head)
    below = ["".join(f"<td>{cell(x)}</td>" for x in row) for row in rows]
    return table([f"<tr>{row}</tr>" for row in (top, *below)])


def table(rows: Sequence[str], kind: str = "") -> str:
    """A table of rows of HTML, which is moved sideways where it is wider than the page."""
    return scroll(f'<table class="{kind}">{"".join(rows)}</table>')


def scroll(wide: str) -> str:
    """HTML that may be wider than the page."""
    return f'<div class="scroll">{wide}</div>'


def cell(value: object) -> str:
    """A value as HTML: a mapping is a table, which may stand in a cell of another; None is empty."""
    if isinstance(value, Mapping):
        rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{cell(v)}</td></tr>" for k, v in value.items())
        return f"<table>{rows}</table>"
    if isinstance(value, list | tuple):
        return ", ".join(cell(x) for x in value)
    if value is None:
        return ""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
