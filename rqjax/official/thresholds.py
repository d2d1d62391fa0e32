"""The entropy thresholds that an official configuration names: those of its file, or the published ones."""

import json
import pathlib

from rqjax.errors import InputError
from rqjax.quantize.entropy import read_thresholds, threshold_for

PUBLISHED = pathlib.Path(__file__).parent.parent / "assets" / "entropy_thresholds.json"
"""Of each published table the percentiles that any published config asks for; bins "0_1", patches of 16."""


def threshold(path: str, ratio: float, patch: int) -> float:
    """The entropy above which a region is fine, by the table `path`, or by the published one of that name.

    Published weights mean entropy bins "0_1". Raises InputError for a ratio outside [0, 1], tables of other bins or
    patches, and percentiles that are not known here.
    """
    try:
        regular = pathlib.Path(path).is_file()  # a device is none, and may never end
        values = read_thresholds(path, "0_1", patch) if regular else _published(path, patch)
        return threshold_for(values, ratio)
    except KeyError as error:
        raise InputError(f"percentile {error} of {path!a} is not known here: put that file there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(str(error)) from None


def _published(path: str, patch: int) -> dict[int, float]:
    tables, name = json.loads(PUBLISHED.read_text()), pathlib.PurePath(path).name
    if name not in tables:
        raise InputError(f"the threshold table {path!a} cannot be read: put that file there")
    if patch != 16:
        raise InputError(f"{name} is for patches of 16, not {patch}: compute a table for this")
    return {int(percentile): value for percentile, value in tables[name].items()}
