import collections
import pathlib
import pickle
import tarfile
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.torchfile.file import load, save
from rqjax.torchfile.foreign import Foreign

FILES = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"
KINDS = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8": ml_dtypes.float8_e4m3fn,
    **dict.fromkeys(("scalar", "empty", "transposed", "strided", "row", "expanded", "parameter"), np.float32),
    **dict.fromkeys(("shared_a", "shared_b"), np.float32),
}


def expected() -> dict[str, np.ndarray]:
    with np.load(FILES / "tensors.npz") as data:
        return dict(data)


def assert_tensors(state, names):
    assert list(state) == list(names)
    for name, tensor in state.items():
        assert type(tensor) is np.ndarray, name
        assert tensor.dtype == KINDS.get(name, name), name
        assert tensor.shape == expected()[name].shape, name
        np.testing.assert_array_equal(tensor.astype(expected()[name].dtype), expected()[name], err_msg=name)


@pytest.mark.parametrize("verify", [False, True])
def test_zip_tensors_equal_pytorchs(verify):
    content = load(FILES / "zip.pt", verify)
    assert type(content["state_dict"]) is collections.OrderedDict
    assert_tensors(content["state_dict"], expected())


def test_legacy_tensors_equal_pytorchs():
    content = load(FILES / "legacy.pt")
    assert content["epoch"] == 3
    assert_tensors(content["state_dict"], [name for name in expected() if name not in ("uint16", "float8")])


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_tensors_look_at_the_file(name):
    state = load(FILES / name)["state_dict"]
    assert np.shares_memory(state["shared_a"], state["shared_b"])
    assert np.shares_memory(state["transposed"], state["row"])
    assert not np.shares_memory(state["float32"], state["row"])
    for tensor in state.values():
        assert tensor.size == 0 or not (tensor.flags.writeable or tensor.flags.owndata)


def test_plain_values():
    content = load(FILES / "zip.pt")
    del content["state_dict"]
    assert content == {
        "epoch": 3,
        "name": "é",
        "path": b"\x00\xff",
        "flags": (True, None, 2.5, 2**70),
        "size": (2, 3),
        "dtype": "torch.bfloat16",
        "device": "cuda:1",
        "members": {1, 2},
        "mixed": [1, [2, {}]],
        "complex": 1 - 2j,
    }


@pytest.mark.parametrize("name", ["lightning.ckpt", "lightning_legacy.ckpt"])
def test_lightning_tensors_are_intact_beside_foreign_classes(name):
    content = load(FILES / name)
    with np.load(FILES / "lightning.npz") as data:
        np.testing.assert_array_equal(content["state_dict"]["weight"], data["weight"])
        np.testing.assert_array_equal(content["state_dict"]["bias"], data["bias"])
        moment = content["optimizer_states"][0]["state"][0]["exp_avg"]
        np.testing.assert_array_equal(moment, data["exp_avg"])
    ((callback, best),) = content["callbacks"].items()
    assert (type(callback), callback.name, callback.arguments) == (Foreign, "ModelCheckpoint", None)
    assert best["best_model_score"] == np.float32(0.25)
    assert (best["best_model_path"].module, best["best_model_path"].arguments) == ("pathlib", ("a", "b"))
    hyper = content["hyper_parameters"]
    assert repr(hyper) == "<Foreign pytorch_lightning.utilities.parsing.AttributeDict>"
    assert hyper.entries["lr"] == 1e-4
    assert hyper.entries["config"].state["_content"] == {"dim": 4}
    assert hyper.entries["config"].state["_parent"] is hyper.entries["config"]
    assert hyper.entries["options"].state == {"seed": 1}
    partial = content["lr_schedulers"][0]["lambda"]
    assert (partial.name, partial.arguments[0].name, partial.state[1]) == ("partial", "pow", (2,))


@pytest.mark.parametrize("name", ["lightning.ckpt", "lightning_legacy.ckpt"])
def test_numpy_objects(name):
    content = load(FILES / name)
    assert (type(content["global_step"]), content["global_step"]) == (np.int64, 10)
    assert (type(content["half"]), content["half"]) == (np.float16, 0.5)
    np.testing.assert_array_equal(content["lr_schedulers"][0]["rates"], np.arange(3.0))
    np.testing.assert_array_equal(content["big_endian"], np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(content["fortran"], np.arange(6).reshape(2, 3))
    assert content["history"] == {"a": [1]}


@pytest.mark.parametrize("name", ["storages.pt", "storages_legacy.pt"])
def test_bare_storages(name):
    untyped, typed = load(FILES / name)
    np.testing.assert_array_equal(untyped, np.arange(6, dtype=np.float32).view(np.uint8))
    np.testing.assert_array_equal(typed, np.arange(3, dtype=np.float32))


def test_file_without_checksums():
    np.testing.assert_array_equal(load(FILES / "no_checksums.pt", verify=True), expected()["float32"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sparse.pt", "sparse"),
        ("quantized.pt", "QInt8Storage"),
        ("conjugated.pt", "resolve_conj"),
        ("torchscript.pt", "TorchScript"),
        ("tensors.safetensors", "not a file that torch.save wrote"),
        ("missing.pt", "No such file"),
        (".", "directory"),
    ],
)
def test_refused_files_name_the_reason(name, words):
    with pytest.raises(InputError, match=words) as refusal:
        load(FILES / name)
    assert "\n" not in str(refusal.value)
    assert str(FILES / name) in str(refusal.value)


def test_other_files_are_refused(tmp_path):
    cases = {"empty": b"", "page": b"<html>404</html>", "pickle": pickle.dumps({"a": 1}), "short": b"PK"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"expected|give|download"):
            load(tmp_path / name)
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        tar.add(FILES / "README.md", "storages")
    with pytest.raises(InputError, match="tar format"):
        load(tmp_path / "old.tar")


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_every_truncation_asks_for_a_new_download(name, tmp_path):
    content = (FILES / name).read_bytes()
    for length in [*range(8, len(content), 97), len(content) - 1]:
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=r"truncated or damaged.*download"):
            load(tmp_path / name)


def rewrite(source, target, change):
    """A copy of a zip file with `change(name, content) -> (content, compression)` applied to each record."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content, compression = change(name, old.read(name))
            new.writestr(name, content, compression)


def test_verify_finds_a_flipped_bit_of_data(tmp_path):
    save(tmp_path / "a.pt", {"w": np.arange(100, dtype=np.float32)})
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(np.float32(50).tobytes())] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    assert load(tmp_path / "a.pt")["w"].shape == (100,)
    with pytest.raises(InputError, match="checksum of 'data/0'"):
        load(tmp_path / "a.pt", verify=True)


def test_compressed_records_are_refused(tmp_path):
    rewrite(FILES / "zip.pt", tmp_path / "a.pt", lambda name, content: (content, zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="compressed"):
        load(tmp_path / "a.pt")


def test_the_other_byte_order(tmp_path):
    values = {"b": np.array([1, -2], ml_dtypes.bfloat16), "c": np.array([1 + 2j], np.complex64), "i": np.arange(3)}
    swapped = [values["b"].view(np.uint16).byteswap(), values["c"].view(np.float32).byteswap(), values["i"].byteswap()]
    save(tmp_path / "a.pt", values)
    records = {f"archive/data/{index}": array.tobytes() for index, array in enumerate(swapped)}
    records["archive/byteorder"] = b"big"
    rewrite(
        tmp_path / "a.pt", tmp_path / "b.pt", lambda name, content: (records.get(name, content), zipfile.ZIP_STORED)
    )
    for name, array in load(tmp_path / "b.pt").items():
        assert array.dtype == values[name].dtype
        np.testing.assert_array_equal(array, values[name])


def test_loading_reads_nothing(tmp_path):
    """64 MiB: neither Python's memory nor the process's own grows until a tensor is used."""
    big = np.ones((4, 2**22), np.float32)
    save(tmp_path / "big.pt", {str(index): row for index, row in enumerate(big)})
    del big
    tracemalloc.start()
    before = resident()
    state = load(tmp_path / "big.pt")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    assert resident() - before < 2**22
    assert state["2"].sum() == 2**22
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def resident() -> int:
    status = pathlib.Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0
