import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rqjax.errors import InputError
from rqjax.store.arrays import from_arrays, to_arrays


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs) for _ in range(12)])
        self.scale = nnx.Param(jnp.ones(4))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Model:
    network: Any
    books: tuple


@pytest.fixture
def model():
    return Model(Net(nnx.Rngs(0)), (jnp.arange(3.0),))


def test_names_are_paths_without_the_boxes_around_arrays(model):
    names = set(to_arrays(model))
    assert {"network/layers/0/kernel", "network/layers/11/bias", "network/scale", "books/0"} <= names
    assert len(names) == 12 * 2 + 2


def test_round_trip_matches_by_name_whatever_the_order(model):
    arrays = to_arrays(model)
    backwards = dict(reversed(arrays.items()))
    found = to_arrays(from_arrays(jax.eval_shape(lambda: model), backwards))
    assert list(found) == list(arrays)
    assert all((found[name] == arrays[name]).all() for name in arrays)


def test_what_does_not_fit_is_named(model):
    arrays = to_arrays(model)
    arrays["network/layers/2/kernel"] = jnp.ones((3, 2))
    arrays["network/other"] = arrays.pop("network/scale")
    with pytest.raises(
        InputError, match=r"missing network/scale; unknown network/other; .*\(3, 2\), expected \(2, 3\)"
    ):
        from_arrays(model, arrays)
