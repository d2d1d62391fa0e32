"""Graphs of TensorFlow, made up here byte by byte: their constants come out, and all damage ends in a line."""

import struct

import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.nets.inception import CLASSES
from rqjax.store.arrays import to_arrays
from rqjax.torchfile import inception_graph
from rqjax.torchfile.graph import read_graph
from rqjax.torchfile.inception import from_torch, load_inception
from tests.conftest import Golden


def varint(number):
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def field(number, value):
    """A number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(key, value):
    return field(5, field(1, key.encode()) + field(2, value))


def tensor(array, kind=1, content=True):
    sizes = b"".join(field(2, field(1, size)) for size in array.shape)
    data = np.asarray(array, "<f4").tobytes()
    return field(1, kind) + field(2, sizes) + (field(4, data) if content else field(5, data))


def node(name, op, *entries):
    return field(1, field(1, name.encode()) + field(2, op.encode()) + field(3, b"input") + b"".join(entries))


def constant(name, array, **how):
    return node(name, "Const", entry("dtype", field(6, 1)), entry("value", field(8, tensor(array, **how))))


NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
SMALL = (
    constant("a", NUMBERS)
    + constant("b", NUMBERS, content=False)
    + node(
        "c",
        "Const",
        entry("value", field(8, field(1, 1) + field(2, field(2, field(1, 4))) + field(5, struct.pack("<f", 2)))),
    )
    + constant("ids", NUMBERS, kind=3)
    + node("norm", "Norm", entry("eps", varint(4 << 3 | 5) + struct.pack("<f", 0.5)), entry("scaled", field(5, 1)))
    + node("no", "Identity", entry("value", field(8, tensor(NUMBERS))))
    + field(4, field(1, 9))
)


def test_constants_and_attributes_come_out(tmp_path):
    """Also those that are written as numbers one by one, or once for all places; other kinds of tensors are none."""
    (tmp_path / "g.pb").write_bytes(SMALL)
    found = read_graph(tmp_path / "g.pb")
    for name in "ab":
        np.testing.assert_array_equal(found[name].constant, NUMBERS)
    np.testing.assert_array_equal(found["c"].constant, [2, 2, 2, 2])
    assert found["ids"].constant is None
    assert found["no"].constant is None
    assert found["norm"].attributes == {"eps": 0.5, "scaled": True}


def test_no_damage_ends_in_anything_but_a_line(tmp_path):
    path, refused = tmp_path / "g.pb", 0
    cut = [SMALL[:k] for k in range(len(SMALL))]
    changed = [
        SMALL[:k] + bytes([SMALL[k] ^ bits]) + SMALL[k + 1 :] for k in range(len(SMALL)) for bits in (1, 8, 0x80, 0xFF)
    ]
    for content in [
        *cut,
        *changed,
        b"\xff" * 100,
        field(1, field(5, field(2, field(8, field(2, field(2, field(1, 2**62))))))),
    ]:
        path.write_bytes(content)
        try:
            read_graph(path)
        except InputError:
            refused += 1
    assert refused > len(SMALL) / 2
    with pytest.raises(InputError, match="expected a file of a frozen TensorFlow graph"):
        read_graph(tmp_path)


def graph_of(state_dict, gamma, epsilon, scaled):
    """A graph with the weights of a state dict, as the published one names them."""
    yield constant("softmax/weights", state_dict["fc.weight"].T)
    yield constant("softmax/biases", state_dict["fc.bias"])
    for copy, name in inception_graph.names().items():
        yield constant(f"{name}/conv2d_params", state_dict[f"{copy}.conv.weight"].transpose(2, 3, 1, 0))
        leaves = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        for leaf, theirs in leaves.items():
            yield constant(f"{name}/batchnorm/{leaf}", state_dict[f"{copy}.bn.{theirs}"])
        yield constant(f"{name}/batchnorm/gamma", gamma(state_dict[f"{copy}.bn.weight"]))
        real = entry("variance_epsilon", varint(4 << 3 | 5) + struct.pack("<f", epsilon))
        yield node(
            f"{name}/batchnorm",
            "BatchNormWithGlobalNormalization",
            real,
            entry("scale_after_normalization", field(5, scaled)),
        )


def test_inception_of_a_graph_is_that_of_its_copy(tmp_path):
    state_dict, path = Golden("metrics/inception_fid").state_dict(), tmp_path / "classify_image_graph_def.pb"
    path.write_bytes(b"".join(graph_of(state_dict, lambda x: x, 1e-3, 1)))
    expected, found = to_arrays(from_torch(state_dict)), to_arrays(load_inception(str(path)))
    assert list(found) == list(expected)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-7)


def test_scales_that_a_graph_does_not_use_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(inception_graph, "names", lambda: {"Conv2d_1a_3x3": "conv"})
    draw = np.random.default_rng(0)
    state_dict = {
        f"Conv2d_1a_3x3.bn.{leaf}": draw.uniform(1, 2, 4).astype(np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    }
    state_dict |= {
        "Conv2d_1a_3x3.conv.weight": np.ones((4, 3, 3, 3), np.float32),
        "fc.weight": np.ones((CLASSES, 2)),
        "fc.bias": np.ones(CLASSES),
    }
    (tmp_path / "g.pb").write_bytes(b"".join(graph_of(state_dict, lambda x: x, 0.5, 0)))
    found = inception_graph.state_dict_of_graph(str(tmp_path / "g.pb"))
    assert (found["Conv2d_1a_3x3.bn.weight"] == 1).all()
    np.testing.assert_allclose(
        found["Conv2d_1a_3x3.bn.running_var"], state_dict["Conv2d_1a_3x3.bn.running_var"] + 0.499
    )
    (tmp_path / "g.pb").write_bytes(constant("softmax/weights", NUMBERS))
    with pytest.raises(InputError, match=r"has no constant softmax/biases: expected classify_image_graph_def\.pb"):
        inception_graph.state_dict_of_graph(str(tmp_path / "g.pb"))
