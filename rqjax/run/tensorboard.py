"""Scalars and pictures for TensorBoard, in a file of its format."""

import pathlib
import time

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter, directory_check
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore  (made at import)

FLUSH_SECONDS = 30
"""Seconds after which new lines are brought to disk."""


class Board:
    """The file of one start of a run. tensorboardX's own writer has a thread, which a full disk would end without a
    word, and the program would wait for it forever.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        directory_check(str(folder))
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        # TensorBoard then hides the lines that an earlier start wrote beyond step `start`
        self._add(Event(step=start + 1, file_version="brain.Event:2"))
        self._add(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, name: str, value: float, step: int) -> None:
        self._add(Event(step=step, summary=summary.scalar(name, value)))

    def image(self, name: str, image: UInt8[np.ndarray, "h w c"], step: int) -> None:
        self._add(Event(step=step, summary=summary.image(name, image, dataformats="HWC")))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()
