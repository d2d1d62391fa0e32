import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.torchfile.table import Entry, export_arrays, import_arrays, layer_entries, shapes_of

LIKE = {
    "conv/kernel": np.empty((3, 3, 4, 5)),
    "query/kernel": np.empty((2, 6, 2, 3)),  # two layers, with outputs in two heads of three
    "query/bias": np.empty((2, 2, 3)),
    "proj/kernel": np.empty((2, 3, 7)),  # inputs in two heads of three
    "proj/bias": np.empty(7),
    "norm/scale": np.empty(4),
    "book/embed": np.empty((8, 4)),
    "book/padding": np.empty(4),
}
SHAPES = shapes_of(LIKE)
ENTRIES = [
    *layer_entries("conv", "conv", SHAPES),
    *(entry for i in range(2) for entry in layer_entries(f"blocks.{i}.query", "query", SHAPES, i)),
    *layer_entries("proj", "proj", SHAPES, inputs=2),
    *layer_entries("norm", "norm", SHAPES),
    Entry("book.weight", "book/embed", (9, 4), rows=slice(8)),
    Entry("book.weight", "book/padding", (9, 4), rows=8),
]


@pytest.fixture
def state_dict():
    rng = np.random.default_rng(0)
    return {entry.key: rng.standard_normal(entry.shape).astype(np.float32) for entry in ENTRIES}


def test_layouts(state_dict):
    arrays = import_arrays(ENTRIES, state_dict, LIKE)
    assert shapes_of(arrays) == SHAPES
    assert arrays["conv/kernel"][1, 2, 3, 4] == state_dict["conv.weight"][4, 3, 1, 2]
    x = np.arange(6, dtype=np.float32)
    split = np.einsum("i,ihs->hs", x, arrays["query/kernel"][1])
    assert np.allclose(split.reshape(-1), state_dict["blocks.1.query.weight"] @ x, atol=1e-5)
    joined = np.einsum("hs,hso->o", x.reshape(2, 3), arrays["proj/kernel"])
    assert np.allclose(joined, state_dict["proj.weight"] @ x, atol=1e-5)
    assert np.array_equal(arrays["book/embed"], state_dict["book.weight"][:8])
    assert np.array_equal(arrays["book/padding"], state_dict["book.weight"][8])


def test_keys_are_those_of_pytorch_in_its_order(state_dict):
    blocks = [f"blocks.{i}.query.{name}" for i in range(2) for name in ("weight", "bias")]
    assert list(state_dict) == ["conv.weight", *blocks, "proj.weight", "proj.bias", "norm.weight", "book.weight"]


def test_round_trip_is_exact_and_in_order(state_dict):
    back = export_arrays(ENTRIES, import_arrays(ENTRIES, state_dict, LIKE))
    assert list(back) == list(state_dict)
    assert all(np.array_equal(back[key], state_dict[key]) for key in back)


def test_half_precision_becomes_float32(state_dict):
    half = {key: tensor.astype(np.float16) for key, tensor in state_dict.items()}
    arrays = import_arrays(ENTRIES, half, LIKE)
    assert {x.dtype for x in arrays.values()} == {np.dtype(np.float32)}
    assert np.array_equal(arrays["norm/scale"], half["norm.weight"].astype(np.float32))


def test_what_does_not_fit_is_named(state_dict):
    state_dict["norm.weight"] = np.ones(5, np.float32)
    state_dict["extra"] = state_dict.pop("conv.weight")
    with pytest.raises(
        InputError, match=r"missing conv.weight; unknown extra; norm.weight has shape \(5,\), expected \(4,\)"
    ):
        import_arrays(ENTRIES, state_dict, LIKE)
