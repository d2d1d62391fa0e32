"""The time and the memory of a part of a notebook or program, printed when it ends."""

import contextlib
import time
from collections.abc import Generator

import jax

from rqjax.run.devices import peak_memory
from rqjax.run.ledger import duration

COMPILING = "/jax/core/compile/backend_compile_duration"
"""The event that JAX reports after it has compiled a program, or has found it in its cache."""


@contextlib.contextmanager
def measured(what: str) -> Generator[None]:
    """Prints one line after the block: `what`, its seconds, those of compiling among them, and the most memory that was
    ever in use: of one accelerator, or of this process on a CPU.
    """
    compiling = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILING:
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    since = time.perf_counter()
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    spent = time.perf_counter() - since
    compiled = f", {duration(min(sum(compiling), spent))} of it compiling" if compiling else ""
    print(f"{what}: {duration(spent)}{compiled}; {peak_memory(jax.local_devices())}", flush=True)
