import types

import pytest

from rqjax.run import devices


def device(kind, platform="gpu", process=0):
    return types.SimpleNamespace(device_kind=kind, platform=platform, process_index=process)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ([device("cpu", "cpu")], "devices: 1 CPU device"),
        ([device("cpu", "cpu")] * 2, "devices: 2 CPU devices"),
        ([device("NVIDIA H100 80GB HBM3")], "devices: 1 NVIDIA H100 80GB HBM3"),
        ([device("TPU v5 lite", "tpu", i // 4) for i in range(8)], "devices: 8 TPU v5 lite of 2 processes"),
    ],
)
def test_hardware_in_words(found, line):
    assert devices.described.__wrapped__(found) == line


def test_a_run_begins_with_its_hardware(capsys):
    devices.say()
    assert capsys.readouterr().out == "devices: 8 CPU devices\n"
