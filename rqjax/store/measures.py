"""A leak of tensorstore, kept shut: orbax asks it for measurements twice for each item that it saves or restores."""

import tensorstore

ASKED = "/tensorstore/kvstore/"
"""The measurements that orbax asks for, to log a speed that nobody here reads."""
_measured = tensorstore.experimental_collect_matching_metrics


def leave_out() -> None:
    """Has tensorstore answer orbax that nothing was measured.

    tensorstore 0.1.86 never frees the lists of an answer, 9 kB each: runs grew by 20 kB for each item of each save.
    """
    tensorstore.experimental_collect_matching_metrics = _answer


def _answer(metric_prefix: str = "", include_zero_metrics: bool = False) -> list[object]:
    return [] if metric_prefix == ASKED else _measured(metric_prefix, include_zero_metrics)
