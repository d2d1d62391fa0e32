import collections
import hashlib
import pathlib
import pickletools
import tracemalloc
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.torchfile import write
from rqjax.torchfile.file import load, save

FILES = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"


def a_checkpoint():
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "state_dict": collections.OrderedDict(a=table, b=table, c=lambda: table.T, d=np.array(3, np.int64)),
        "half": jnp.ones((2, 2), jnp.bfloat16),
        "tiny": np.array([0.5], ml_dtypes.float8_e5m2),
        "wide": np.array([2**16 - 1], np.uint16),
        "empty": np.zeros((0, 3), np.float16),
        "big_endian": np.arange(3, dtype=">i4"),
        "plain": [1, -(2**40), True, None, 1.5, "é", b"\xff", (), [], {}, (1, [2])],
        7: np.float32(2.5),
    }


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path / "a.pt", a_checkpoint())
    content = load(tmp_path / "a.pt", verify=True)
    state = content["state_dict"]
    assert type(state) is collections.OrderedDict
    assert np.shares_memory(state["a"], state["b"])
    np.testing.assert_array_equal(state["c"], state["a"].T)
    assert (state["d"].shape, state["d"].dtype, state["d"]) == ((), np.int64, 3)
    assert (content["half"].dtype, content["half"].sum()) == (ml_dtypes.bfloat16, 4)
    assert (content["tiny"].dtype, content["wide"].dtype) == (ml_dtypes.float8_e5m2, np.uint16)
    assert (content["empty"].shape, content["empty"].dtype) == ((0, 3), np.float16)
    assert (content["big_endian"].dtype, content["big_endian"].tolist()) == (np.int32, [0, 1, 2])
    assert content["plain"] == a_checkpoint()["plain"]
    assert content[7] == 2.5


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_pytorchs_files_survive_a_round_trip(name, tmp_path):
    state = load(FILES / name)["state_dict"]
    save(tmp_path / "a.pt", state)
    again = load(tmp_path / "a.pt", verify=True)
    assert list(again) == list(state)
    for key, tensor in state.items():
        assert (again[key].dtype, again[key].shape) == (tensor.dtype, tensor.shape)
        assert again[key].tobytes() == tensor.tobytes()


def test_saved_bytes_are_those_that_pytorch_read(tmp_path):
    """PyTorch 2.13 loaded a file of this digest with weights_only=True, with mmap=True and without, to equal values."""
    save(tmp_path / "a.pt", a_checkpoint())
    digest = hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()
    assert digest == "459568a45e6661856ef42cb82ade2f72f16ee06752ba73516bcdf29dfe550330"


def test_saved_pickle_keeps_to_what_weights_only_accepts(tmp_path):
    save(tmp_path / "a.pt", a_checkpoint())
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/version") == b"3\n"
        operations = [
            (opcode.name, argument) for opcode, argument, _ in pickletools.genops(archive.read("archive/data.pkl"))
        ]
    names = {argument for name, argument in operations if name == "GLOBAL"}
    assert names == {
        "collections OrderedDict",
        "_codecs encode",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        *(f"torch {kind}Storage" for kind in ("Float", "Long", "BFloat16", "Half", "Int")),
        "torch.storage UntypedStorage",
        "torch float8_e5m2",
        "torch uint16",
    }
    structure = {"PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "TUPLE", "SETITEMS", "APPENDS"}
    values = {"BINUNICODE", "BININT", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"}
    assert {name for name, _ in operations} <= structure | values | {"GLOBAL", "REDUCE", "BINPERSID"}


@pytest.mark.parametrize("zip64_from", [2**30, 16])
def test_storages_are_aligned(zip64_from, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "ZIP64_FROM", zip64_from)
    save(tmp_path / "a.pt", [np.full(length, length, np.float32) for length in (1, 3, 100, 7)])
    arrays = load(tmp_path / "a.pt", verify=True)
    assert [array.ctypes.data % 64 for array in arrays] == [0] * 4
    assert [array.tolist() for array in arrays] == [[n] * n for n in (1, 3, 100, 7)]


def test_saving_holds_one_tensor_at_a_time(tmp_path):
    tracemalloc.start()
    save(tmp_path / "a.pt", {str(index): lambda index=index: np.full(2**20, index, np.float32) for index in range(8)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 2**22
    assert [array[-1] for array in load(tmp_path / "a.pt").values()] == list(range(8))


@pytest.mark.parametrize(
    "value",
    [
        {"w": object()},
        {"w": {1, 2}},
        {"w": np.array(["text"])},
        {"w": lambda: "text"},
        {None: 1},
        {"n": 1 << 3000},
    ],
)
def test_values_that_cannot_be_saved_leave_the_old_file(value, tmp_path):
    save(tmp_path / "a.pt", {"kept": np.ones(2)})
    with pytest.raises(InputError, match="expected"):
        save(tmp_path / "a.pt", {"first": np.ones(3), **value})
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    assert load(tmp_path / "a.pt")["kept"].tolist() == [1, 1]


def test_a_failing_function_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        save(tmp_path / "a.pt", {"first": np.ones(3), "second": fail})
    assert list(tmp_path.iterdir()) == []
    endless = []
    endless.append(endless)
    with pytest.raises(InputError, match="contains itself"):
        save(tmp_path / "a.pt", endless)
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "nowhere" / "a.pt", {})
    assert list(tmp_path.iterdir()) == []
