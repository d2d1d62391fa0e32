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


@pytest.fixture
def machine(monkeypatch):
    """A callable: the devices that a CPU of so many cores becomes for some rows and a mesh."""

    def made(cores, rows, mesh="auto", flags="", said=-1):
        chosen = {}
        config = types.SimpleNamespace(jax_num_cpu_devices=said, update=chosen.__setitem__)
        monkeypatch.setattr(devices.jax, "config", config)
        monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: range(cores))
        monkeypatch.setenv("XLA_FLAGS", flags)
        devices.use_cores(rows, mesh)
        monkeypatch.undo()
        return chosen.get("jax_num_cpu_devices")

    return made


def test_a_cpu_becomes_a_device_a_core_as_far_as_they_divide_the_rows(machine):
    assert [machine(*x) for x in ((1, 64), (2, 64), (2, 7), (6, 64), (64, 64), (6, 12))] == [1, 2, 1, 4, 8, 6]


def test_a_mesh_says_how_many_devices_it_is_of(machine):
    assert [machine(4, 64, mesh) for mesh in ("1x1", "2x1", "2x2", "1x3", "64x1", "banana", "0x2")] == [
        1,
        2,
        4,
        3,
        1,
        1,
        1,
    ]


def test_what_the_user_has_said_stays(machine):
    assert machine(4, 64, said=1) is None
    assert machine(4, 64, flags="--xla_force_host_platform_device_count=8") is None
