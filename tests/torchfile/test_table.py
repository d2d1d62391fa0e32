import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.torchfile.table import Entry, conv, export_arrays, import_arrays, linear

HEADS = (6, 2, 3)
LIKE = {
    "conv/kernel": np.empty((3, 3, 4, 5)),
    "query/kernel": np.empty((2, *HEADS)),
    "query/bias": np.empty((2, 2, 3)),
    "scale": np.empty(4),
}
ENTRIES = [
    conv("conv.weight", "conv/kernel", (3, 3, 4, 5)),
    *(linear(f"blocks.{i}.query.weight", "query/kernel", HEADS, 6, layer=i) for i in range(2)),
    *(Entry(f"blocks.{i}.query.bias", "query/bias", (6,), layer=i) for i in range(2)),
    Entry("norm.weight", "scale", (4,)),
]


@pytest.fixture
def state_dict():
    rng = np.random.default_rng(0)
    return {entry.key: rng.standard_normal(entry.shape).astype(np.float32) for entry in ENTRIES}


def test_layouts(state_dict):
    arrays = import_arrays(ENTRIES, state_dict, LIKE)
    assert {name: x.shape for name, x in arrays.items()} == {name: x.shape for name, x in LIKE.items()}
    assert arrays["conv/kernel"][1, 2, 3, 4] == state_dict["conv.weight"][4, 3, 1, 2]
    x = np.arange(6, dtype=np.float32)
    split = np.einsum("i,ihs->hs", x, arrays["query/kernel"][1])
    assert np.allclose(split.reshape(-1), state_dict["blocks.1.query.weight"] @ x, atol=1e-5)


def test_round_trip_is_exact_and_in_order(state_dict):
    back = export_arrays(ENTRIES, import_arrays(ENTRIES, state_dict, LIKE))
    assert list(back) == list(state_dict)
    assert all(np.array_equal(back[key], state_dict[key]) for key in back)


def test_what_does_not_fit_is_named(state_dict):
    state_dict["norm.weight"] = np.ones(5, np.float32)
    state_dict["extra"] = state_dict.pop("conv.weight")
    with pytest.raises(
        InputError, match=r"missing conv.weight; unknown extra; norm.weight has shape \(5,\), expected \(4,\)"
    ):
        import_arrays(ENTRIES, state_dict, LIKE)
