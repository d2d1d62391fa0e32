"""One self-contained page about a set of runs: `rqjax report runs/a runs/b --out report.html`."""

from collections.abc import Sequence

from rqjax.errors import InputError
from rqjax.flags.report import OUT, OVERWRITE, RUNS
from rqjax.report import csv_name, write_report
from rqjax.store import outputs


def main(words: Sequence[str]) -> None:
    """Writes a page about the runs that the words behind the verb, and --runs, name."""
    runs = [*words[1:], *RUNS.value]
    if not runs:
        raise InputError("report needs run directories: rqjax report DIR [DIR ...]")
    out = outputs.checked(OUT.value, (".html", ".htm"), overwrite=OVERWRITE.value)
    outputs.checked(str(out.with_name(csv_name(out.name))), (".csv",), overwrite=OVERWRITE.value)
    write_report(out, "Training runs", runs=runs, pictures={}, summary={})
    print(out)
