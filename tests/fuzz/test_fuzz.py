"""A thousand mutants of each format; `python -m tests.fuzz` reads as many as it is told to."""

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.mutants import FORMATS


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_mutants_are_read_or_refused_in_one_line(kind, figures):
    said = []
    found = run(kind, 1000, 0, said.append)
    assert said == []
    assert found["cases"] == 1000
    assert found["refused"] > 100
    assert found["accepted"] > 50
    figures(f"1,000 mutants: {kind}", f"{found['accepted']} read, slowest {found['slowest_s']} s")
