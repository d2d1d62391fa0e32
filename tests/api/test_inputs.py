import numpy as np
import pytest

from rqjax.api.inputs import whole_number
from rqjax.errors import InputError


def test_whole_numbers_are_those_of_every_library():
    assert whole_number(np.int64(3), "count", 1) == 3
    assert type(whole_number(np.array(3), "count", 1)) is int


@pytest.mark.parametrize("value", [1.5, "3", None, True, 0, [3], np.array([1, 2]), 2**31])
def test_others_are_one_line(value):
    with pytest.raises(InputError, match=r"count is .*: expected a whole number") as caught:
        whole_number(value, "count", 1)
    assert "\n" not in str(caught.value)
