"""Passes on what workers write: line by line to the container's log, with the last lines of each kept.

A thread of its own, so that a slow log slows those who write and never the supervisor.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from typing import Final

_MAX_LINE: Final = 64 << 10
_MAX_KEPT: Final = 256
_MAX_KEPT_LINES: Final = 20
# What is looked at for kept lines, at the end of one read.
_TAIL: Final = 8 << 10
# Frames below the user's code in the stack of a crash: a dozen lines that say nothing, and would push out what does.
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OUR_FRAMES: Final = (f'File "{_PACKAGE}{os.sep}'.encode(), b'File "<frozen runpy>')


class Source:
    """One pipe and what of it is not passed on yet."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.rest = b""
        self.last: deque[bytes] = deque(maxlen=_MAX_KEPT_LINES)
        # While stacks are awaited: what came since, and when the last of it.
        self.captured: bytearray | None = None
        self.captured_at = 0.0


class Output:
    """The pipes of all processes."""

    def __init__(self, target: int = 1) -> None:
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="snakepit-output", daemon=True)
        self._thread.start()

    def open(self) -> tuple[Source, int]:
        """Return a new source and the descriptor to write to it, which the caller passes on and closes."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        source = Source(read)
        with self._lock:
            self._selector.register(read, selectors.EVENT_READ, source)
        return source, write

    def finish(self, source: Source) -> list[str]:
        """Pass on what is left, close the source, and return its last lines: printable, at most 20 of 256 bytes."""
        with self._lock:
            if source.descriptor >= 0:
                while self._pump(source):
                    pass
                self._close(source)
            return [line for line in map(_printable, source.last) if line]

    def capture(self, source: Source) -> None:
        """Keep what comes from now on for `captured`, instead of passing it on."""
        with self._lock:
            source.captured = bytearray()
            source.captured_at = 0.0

    def quiet_since(self, source: Source) -> float:
        """Return when the last captured bytes came, in terms of time.monotonic(); 0 when none did."""
        with self._lock:
            return source.captured_at

    def captured(self, source: Source) -> str:
        """Return what was captured, and pass on again what comes."""
        with self._lock:
            data, source.captured = source.captured or bytearray(), None
            return data.decode("utf-8", "replace").strip()

    def _close(self, source: Source) -> None:
        self._selector.unregister(source.descriptor)
        os.close(source.descriptor)
        source.descriptor = -1
        if source.rest:
            self._write(source, source.rest + b"\n")
            source.rest = b""

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    continue
                with self._lock:
                    if key.data.descriptor >= 0 and not self._pump(key.data, once=True):
                        self._close(key.data)

    def _pump(self, source: Source, once: bool = False) -> bool:
        """Pass on whole lines; False at the end of the pipe, or, unless `once`, when nothing is left for now."""
        try:
            data = os.read(source.descriptor, 65536)
        except BlockingIOError:
            return once
        except OSError:
            return False
        if not data:
            return False
        lines, newline, rest = (source.rest + data).rpartition(b"\n")
        if newline:
            self._write(source, lines + newline)
        source.rest = rest
        if len(rest) > _MAX_LINE:
            self._write(source, rest + b"\n")
            source.rest = b""
        return True

    def _write(self, source: Source, data: bytes) -> None:
        lines = data.rstrip(b"\n")[-_TAIL:].split(b"\n")
        if len(lines) > 1 and len(data) > _TAIL:
            # The first one begins in its middle.
            del lines[0]
        told = [line[: 4 * _MAX_KEPT] for line in lines if line.strip() and not line.lstrip().startswith(_OUR_FRAMES)]
        source.last.extend(told[-_MAX_KEPT_LINES:])
        if source.captured is not None and len(source.captured) + len(data) <= _MAX_LINE:
            source.captured += data
            source.captured_at = time.monotonic()
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._target, view) :]
            except OSError:
                # A log that is gone; the workers must not hang for it.
                return


def _printable(line: bytes) -> str:
    text = "".join(c for c in line.decode("utf-8", "replace") if c.isprintable()).strip()
    return text.encode()[:_MAX_KEPT].decode("utf-8", "ignore")
