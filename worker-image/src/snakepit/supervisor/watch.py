"""What the supervisor's loop waits for."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable

Callback = Callable[[float], None]


class Watch:
    """Descriptors and what to call with the time when one is ready. Remove before closing: numbers are reused."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, what: socket.socket | int, callback: Callback) -> None:
        """Call `callback` whenever `what` is readable, or ended."""
        self._selector.register(what, selectors.EVENT_READ, callback)

    def want_write(self, what: socket.socket, wanted: bool) -> None:
        """Call its callback also when there is room to write."""
        key = self._selector.get_key(what)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        if key.events != events:
            self._selector.modify(what, events, key.data)

    def remove(self, what: socket.socket | int) -> None:
        """Wait for it no more."""
        self._selector.unregister(what)

    def wait(self, seconds: float) -> None:
        """Wait for at most so long, and call what is ready."""
        for key, _ in self._selector.select(seconds):
            # An earlier callback of this round may have removed it, and its number may be another's.
            if self._selector.get_map().get(key.fd) is key:
                key.data(time.monotonic())


def drain(descriptor: int) -> None:
    """Empty a pipe that only wakes."""
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass
