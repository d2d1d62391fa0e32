import json
import pathlib
import tracemalloc

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.store.safetensor_file import load_safetensors, save_safetensors
from rqjax.torchfile.file import load

FILES = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_tensors_equal_those_of_the_safetensors_package():
    arrays, metadata = load_safetensors(FILES / "tensors.safetensors")
    assert metadata == {"format": "pt", "é": "ü"}
    expected = load(FILES / "zip.pt")["state_dict"]
    assert set(arrays) == set(expected)
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        assert array.tobytes() == expected[name].tobytes()


def test_bytes_equal_those_of_the_safetensors_package(tmp_path):
    arrays, metadata = load_safetensors(FILES / "tensors.safetensors")
    save_safetensors(tmp_path / "a.safetensors", arrays, {"format": "pt", "é": "ü"})
    assert metadata == load_safetensors(tmp_path / "a.safetensors")[1]
    ours, theirs = (tmp_path / "a.safetensors").read_bytes(), (FILES / "tensors.safetensors").read_bytes()
    assert ours[8:].split(b"}", 1)[1] == theirs[8:].split(b"}", 1)[1]  # their metadata is in no fixed order
    assert len(ours) == len(theirs)


def test_what_is_saved_is_loaded(tmp_path):
    arrays = {
        "narrow": np.array([1, -1], np.int8),
        "jax": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "scalar": np.array(2, np.int64),
        "empty": np.zeros((3, 0), np.float32),
        "big_endian": np.arange(2, dtype=">f4"),
        "flags": np.array([True, False]),
    }
    save_safetensors(tmp_path / "a.safetensors", arrays)
    loaded, metadata = load_safetensors(tmp_path / "a.safetensors")
    assert metadata == {}
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert (loaded[name].shape, loaded[name].dtype.name) == (array.shape, np.dtype(array.dtype).name)
        np.testing.assert_array_equal(loaded[name], np.asarray(array))
        assert loaded[name].size == 0 or loaded[name].ctypes.data % loaded[name].itemsize == 0
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": entry(), "b": entry(offsets=(4, 12))}, b"0" * 12, "invalid offset"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, b"0" * 20, "invalid offset"),
        ({"a": entry()}, b"0" * 7, "not fully covered"),
        ({"a": entry()}, b"0" * 9, "not fully covered"),
        ({"a": entry(shape=(3,))}, b"0" * 8, "invalid shape"),
        ({"a": entry(shape=(2**40, 2**40), offsets=(0, 0))}, b"", "overflow"),
        ({"a": entry(shape=(0, 2**62), offsets=(0, 0))}, b"", "too big"),
        ({"a": entry(shape=(-2,), offsets=(8, 0))}, b"0" * 8, "JSON"),
        ({"a": entry(shape=(True, 2))}, b"0" * 8, "JSON"),
        ({"a": entry(shape=(2.0,))}, b"0" * 8, "JSON"),
        ({"a": entry(shape=[1] * 65, offsets=(0, 4))}, b"0" * 4, "dimension"),
        ({"a": entry() | {"shape": 2}}, b"0" * 8, "JSON"),
        ({"a": entry(dtype="F\x1b")}, b"0" * 8, "unknown variant"),
        ({"a": entry(dtype="F8_E8M0", shape=(8,))}, b"0" * 8, "element type F8_E8M0, expected one of"),
        ({"a": entry(dtype=[[]])}, b"0" * 8, "JSON"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"0" * 8, "JSON"),
        ({"a": 3}, b"", "JSON"),
        ({"__metadata__": {"a": 1}}, b"", "JSON"),
        (b"[]", b"", "JSON"),
        (b"{", b"", "JSON"),
        (b"[" * 100_000, b"", "JSON"),
        (b'{"a":' * 100_000, b"", "JSON"),
        (b'{"a":"\xff"}', b"", "UTF-8"),
        (b'{"a":' + b"9" * 5000 + b"}", b"", "JSON"),
    ],
)
def test_damaged_headers_are_refused(header, data, words, tmp_path):
    with pytest.raises(InputError, match=words) as refusal:
        load_safetensors(write(tmp_path / "a.safetensors", header, data))
    assert str(refusal.value).isprintable()
    assert str(refusal.value).startswith(f"{tmp_path / 'a.safetensors'}: ")


def test_lengths_are_checked_before_anything_is_read(tmp_path):
    for length in (3, 100_000_001, 2**63, 2**64 - 1):
        with pytest.raises(InputError, match="header would have"):
            load_safetensors(write(tmp_path / "a", b"{}", length=length))
    for content in (b"", b"\0\0\0", b"PK\3\4"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(InputError, match="download it again"):
            load_safetensors(tmp_path / "a")
    with pytest.raises(InputError, match="No such file"):
        load_safetensors(tmp_path / "missing")


def test_loading_reads_nothing_and_saving_one_array_at_a_time(tmp_path):
    class Lazy:
        shape, dtype = (2**20,), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            return np.ones(self.shape, self.dtype)

    tracemalloc.start()
    save_safetensors(tmp_path / "a", {str(index): Lazy() for index in range(8)})
    assert tracemalloc.get_traced_memory()[1] < 1.5 * 2**22
    tracemalloc.reset_peak()
    arrays, _ = load_safetensors(tmp_path / "a")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert arrays["7"].sum() == 2**20


@pytest.mark.parametrize(
    ("arrays", "metadata"),
    [
        ({"a": np.ones(2), "b": "text"}, None),
        ({"a": np.array(["text"])}, None),
        ({"a": np.ones(2, np.complex128)}, None),
        ({"__metadata__": np.ones(2)}, None),
    ],
)
def test_values_that_cannot_be_saved_leave_nothing(arrays, metadata, tmp_path):
    with pytest.raises(InputError, match=r"expected|must"):
        save_safetensors(tmp_path / "a.safetensors", arrays, metadata)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_array_leaves_the_old_file(tmp_path):
    class Failing:
        shape, dtype = (2,), np.dtype(ml_dtypes.bfloat16)

        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("no data")

    save_safetensors(tmp_path / "a", {"kept": np.ones(2)})
    with pytest.raises(RuntimeError, match="no data"):
        save_safetensors(tmp_path / "a", {"first": np.ones(2), "second": Failing()})
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert list(load_safetensors(tmp_path / "a")[0]) == ["kept"]
