"""Ctrl-C and SIGTERM ask a fit to save and stop; a second Ctrl-C stops at once."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

logger = logging.getLogger("polyfield")


class StopRequest:
    """Context manager: inside, SIGINT and SIGTERM set `requested` instead of raising.

    A second SIGINT sets `insisted` and raises KeyboardInterrupt. Outside the main thread nothing
    changes (Python only lets the main thread do so).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested: str | None = None
        self.insisted = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._receive) for s in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            self.insisted = True
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        logger.warning("stopping after this step; Ctrl-C again stops at once, without saving")
