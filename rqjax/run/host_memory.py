"""On a machine without accelerator, memory that a training step frees stays with the process for the next one.

A step's temporaries are gigabytes, taken and freed each time. The C library gives them back to the system, which then
has to find, and to clear, hundreds of thousands of pages for the next step: up to a tenth of its time
(docs/performance.md).
"""

import ctypes
import glob
import os
import sys

DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")
"""Files that the system has for TPUs and GPUs."""
OPTIONS = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
"""Of mallopt, with their numbers in malloc.h: one heap for all threads, as others give parts of theirs back;
large arrays lie in it too; its end is never given back."""


def keep_freed() -> bool:
    """Keeps it where steps are computed by this machine's processor, with GNU's C library, unless the environment tunes
    that library itself; whether it does. To be called before JAX has threads.
    """
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if tuned or sys.platform != "linux" or not only_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(number, value) for number, value in OPTIONS.values())


def only_cpu() -> bool:
    """Whether JAX is told to compute on the CPU, or else would find nothing else; this starts no backend."""
    if asked := os.environ.get("JAX_PLATFORMS"):
        return asked == "cpu"
    return not any(glob.glob(pattern) for pattern in DEVICES)
