"""The entropy thresholds that an official configuration names: those of its file, or the published ones."""

import pathlib
from typing import Any

from rqjax.errors import InputError
from rqjax.quantize.entropy import read_thresholds, threshold_for

PERCENTILES = (10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90)
PUBLISHED = {
    "entropy_thresholds_imagenet_train_patch-16.json": (
        *(2.947292990206026e-37, 3.2971225034060525e-14, 0.010697992518544197, 0.5240799784660339, 1.1998910903930664),
        *(1.6777750253677368, 2.0330491065979004, 2.3272018432617188, 2.4625627994537354, 2.5950534343719482),
        2.871901512145996,
    ),
    "entropy_thresholds_imagenet_val_patch-16.json": (
        *(2.947292990206026e-37, 4.216345358249406e-15, 0.003753718687221408, 0.5326341390609741, 1.200192928314209),
        *(1.6750011444091797, 2.0287485122680664, 2.321420669555664, 2.4564146995544434, 2.588665008544922),
        2.8655805587768555,
    ),
    "entropy_thresholds_ffhq_train_patch-16.json": (
        *(2.947292990206026e-37, 2.947292990206026e-37, 4.656185173209683e-14, 0.0015554522396996617),
        *(0.9582383632659912, 1.545932412147522, 1.9083247184753418, 2.1908888816833496, 2.319988965988159),
        *(2.4472193717956543, 2.7234365940093994),
    ),
}
"""What the published files hold at PERCENTILES, enough for every published config; bins "0_1", patches of 16."""


def threshold(path: str, ratio: float, bins: str, patch: int) -> float:
    """The entropy above which a region is fine, by the table `path`, or by the published one of that name.

    Raises InputError for a ratio outside [0, 1], tables of other bins or patches, and percentiles that are not known
    here.
    """
    name = pathlib.PurePath(path).name
    values: Any
    try:
        if pathlib.Path(path).is_file() or name not in PUBLISHED:
            values = read_thresholds(path, bins, patch).values
        elif (bins, patch) != ("0_1", 16):
            raise InputError(
                f"{name} is for bins 0_1 and patches of 16, not {bins} and {patch}: compute a table for this"
            )
        else:
            values = dict(zip(PERCENTILES, PUBLISHED[name], strict=True))
        return threshold_for(values, ratio)
    except KeyError as error:
        raise InputError(f"percentile {error} of {name} is not known here: put the file at {path}") from None
    except ValueError as error:
        raise InputError(str(error)) from None
