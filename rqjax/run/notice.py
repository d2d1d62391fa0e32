"""The end of a run before its last step: a machine is taken away, a terminal closed, or its user presses Ctrl-C."""

import os
import signal
import socket
import sys
import threading
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from rqjax.errors import INTERRUPTED


class Notice:
    """Whether to save and leave: the same answer on all hosts at each step.

        with Notice() as notice:
            for step in ...:
                ...
                notice.steps += 1
                if notice.reached(step):
                    save and leave

    SIGTERM and SIGHUP, and the first Ctrl-C, are noted. Without a step that is worth a save the first Ctrl-C ends the
    process at once, as the second one always does; also while XLA compiles, when Python's own handlers wait. With
    several processes JAX's coordination service hears SIGTERM and picks the step: asking costs microseconds and no
    transfer.
    """

    def __enter__(self) -> "Notice":
        self.steps = 0  # of this start
        self.interrupted = False
        self._noted = False
        self._several = jax.process_count() > 1
        numbers = [signal.SIGINT, signal.SIGHUP] + ([] if self._several else [signal.SIGTERM])
        # nohup's wish stays
        listened = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._heard, self._told = socket.socketpair()
        self._told.setblocking(False)
        self._before = {number: signal.signal(number, self._note) for number in listened}
        # the system writes a signal's number there at once, whatever Python does
        self._descriptor = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="notice", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._descriptor)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._told.close()  # ends the thread

    def reached(self, step: int) -> bool:
        """Whether to save after `step` and leave; every process asks once after each step."""
        return multihost_utils.reached_preemption_sync_point(step) if self._several else self._noted

    def _note(self, number: int, _: object) -> None:
        self._noted = True
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)  # so that the others hear of it too

    def _listen(self) -> None:
        presses = 0
        while numbers := self._heard.recv(64):
            presses += numbers.count(signal.SIGINT)
            if presses and not self.steps:
                _end("interrupted before its first step: the same command begins there again")
            if presses > 1:
                _end("ended: the same command goes on from the last whole checkpoint")
        self._heard.close()


def _end(message: str) -> NoReturn:
    print(f"\nrqjax: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)
