"""Being told to stop: the step is finished and saved first."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

# What a terminal, a container or a cluster sends; SLURM's --signal=USR1@60 gives a minute.
SIGNALS = (signal.SIGINT, signal.SIGTERM) + (
    (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()
)


class Stopped(KeyboardInterrupt):
    """A training was told to stop and has saved what it had; `status` is the shell's for it."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.status = 128 + signum


class Signals:
    """While it is entered, a signal is noted in `received` instead of ending the process.

    A second SIGINT ends it at once, and so does any while nothing is left to be saved (`idle`).
    Outside the main thread signals are not touched, as Python does not allow it.
    """

    def __init__(self) -> None:
        self.received = 0
        self.idle = ""  # what to say if a signal comes now; empty while there is work to save
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.idle:
            raise Stopped(number, self.idle)
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        name = signal.Signals(number).name
        os.write(
            2, f"\n{name}: this step is finished and saved, then the training stops\n".encode()
        )
