"""Processes that make batches: they end with the one that asked for them, even if that was killed."""

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess


def end_with_parent(*_: int) -> None:
    """Starts a watch in a worker (grain passes its index and the number of all) that ends it with its parent.

    A parent that is killed can tell nobody, and a worker waits without end for somebody to take its next batch.
    """
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
