"""Of official entropy routers: the threshold that a configuration names, and what its file does not say."""

import dataclasses
import json
import math
import pathlib

from rqjax.errors import InputError, printable
from rqjax.files import read_regular
from rqjax.quantize.entropy import BINS, parse_thresholds

PUBLISHED = pathlib.Path(__file__).parent.parent / "assets" / "entropy_thresholds.json"
"""Of each published table the percentiles that any published config asks for; bins "0_1", patches of 16."""
TABLE_BYTES = 2**17
"""The longest table, thirty times the official ones."""


@dataclasses.dataclass(frozen=True)
class Entropy:
    """How an official model computes entropies, which its configuration file does not say, and where its tables lie.

    `bins` is a key of BINS: "0_1" as in the published weights, "-1_1" as in the official code since July 2023, whatever
    its tables of thresholds were computed with. `folder` is that of the configuration file. Raises InputError for other
    bins.
    """

    bins: str = "0_1"
    folder: pathlib.Path | None = None

    def __post_init__(self) -> None:
        if self.bins not in BINS:
            raise InputError(f"entropy_bins is {self.bins!r}: expected one of {', '.join(BINS)}")

    def threshold(self, path: str, ratio: float, patch: int) -> float:
        """The entropy above which a region is fine, by the table `path`, or by the published one of that name.

        A relative path is looked for from `folder`, and then by its name in `folder`. The percentile is the official
        code's, which cuts: that of a share of 0.55 is 44. Raises InputError for a ratio outside [0, 1], tables that say
        that they are of other bins or patches, and percentiles that are not known here.
        """
        if not 0.0 <= ratio <= 1.0:
            raise InputError(f"ratio {ratio} is outside [0, 1]: give the share of regions that are to be fine")
        try:
            table = self._table(path)
            values = self._read(table, patch) if table else _published(path, patch)
            percentile = int(100 - 100 * ratio)
            if percentile in (0, 100):
                return -math.inf if percentile == 0 else math.inf
            return values[percentile]
        except KeyError as error:
            raise InputError(f"percentile {error} of {path!a} is not known here: put it beside the YAML file") from None
        except (OSError, ValueError) as error:
            raise InputError(str(error)) from None

    def _read(self, table: pathlib.Path, patch: int) -> dict[int, float]:
        try:
            text = read_regular(table, TABLE_BYTES)
        except (OSError, ValueError) as error:
            reason = printable(error, 200)
            raise InputError(f"threshold table {table} cannot be read ({reason}): give a JSON file") from None
        return parse_thresholds(text, table, self.bins, patch)

    def _table(self, path: str) -> pathlib.Path | None:
        """The file, if there is any of a name that the path may mean."""
        given = pathlib.Path(path)
        folders = [] if self.folder is None else [self.folder / given, self.folder / given.name]
        candidates = [given] if given.is_absolute() else folders
        return next((candidate for candidate in candidates if candidate.exists()), None)


RELEASED = Entropy()
"""As the published weights are."""


def _published(path: str, patch: int) -> dict[int, float]:
    tables, name = json.loads(PUBLISHED.read_text()), pathlib.PurePath(path).name
    if name not in tables:
        raise InputError(f"the threshold table {path!a} cannot be read: put it beside the YAML file")
    if patch != 16:
        raise InputError(f"{name} is for patches of 16, not {patch}: put a table for these beside the YAML file")
    return {int(percentile): value for percentile, value in tables[name].items()}
