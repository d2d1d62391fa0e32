"""The hardware of a run, in words."""

import collections
from collections.abc import Sequence

import jax


def described(devices: Sequence[jax.Device]) -> str:
    """How many of which kind: "devices: 2 CPU devices", "devices: 1 NVIDIA H100 80GB HBM3"."""
    kinds = collections.Counter("CPU" if device.platform == "cpu" else device.device_kind for device in devices)
    parts = [f"{n} {kind}{' device' + 's' * (n > 1) if kind == 'CPU' else ''}" for kind, n in kinds.items()]
    processes = len({device.process_index for device in devices})
    return f"devices: {', '.join(parts)}" + (f" of {processes} processes" if processes > 1 else "")


def say() -> None:
    """Prints on process 0 what all of them run on: the first line of a run."""
    if jax.process_index() == 0:
        print(described(jax.devices()), flush=True)
