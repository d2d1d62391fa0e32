import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.interface import Condition
from rqjax.nets.condition import ClassCondition, NoCondition, TextCondition


@pytest.mark.parametrize(
    ("condition", "null"),
    [(NoCondition(), [[0], [0]]), (ClassCondition(3, droppable=True), [[3], [3]]), (TextCondition(9, 2), [[0, 0]] * 2)],
)
def test_null_has_the_shape_of_ids_and_an_embedding(condition, null):
    assert isinstance(condition, Condition)
    ids = condition.null(2)
    np.testing.assert_array_equal(ids, null)
    assert ids.shape == (2, condition.length)
    assert np.max(ids) < condition.size


def test_a_class_without_a_null_says_so():
    assert ClassCondition(3).size == 3
    with pytest.raises(InputError, match="no id for none"):
        ClassCondition(3).null(1)
