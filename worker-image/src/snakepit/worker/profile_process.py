"""Profile Process: one thread, the main one, reads DATA, runs handlers, and waits for what they need."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from snakepit.bridge.protocol import Frame, Kind, PlainCall, ProtocolError
from snakepit.bridge.socket import Connection, ConnectionLostError
from snakepit.errors import Interrupted
from snakepit.worker.call import Call
from snakepit.worker.link import Link, Pair
from snakepit.worker.service import Service

# Frames that came while a handler waited for its request: a prefetched call and session frames.
MAX_LATER: Final = 4096
# Frames that are taken at a time from what was received.
MAX_AHEAD: Final = 16
# Not one that programs use: they count from both ends of the real-time signals.
INTERRUPT: Final = signal.SIGRTMIN + 13


class StopServing(BaseException):
    """Raised in the idle main thread when the process shall end."""


class ProcessProfile:
    """Serves one pair of connections after the other. It is the feed of its calls too."""

    def __init__(self) -> None:
        # Only the thread of the running call touches its request.
        self.lock: AbstractContextManager[Any] = nullcontext()
        # Held by the one that reads for a call: not always the main thread, when its handler has threads of its own.
        self._reader = threading.Lock()
        self._later: deque[Frame] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._idle = False

    def stop(self) -> None:
        """End `serve` as soon as no handler runs; called by the signal handler, in the same thread."""
        self._stopping = True
        if self._idle:
            self._idle = False
            raise StopServing

    def serve(self, service: Service, link: Link) -> None:
        """Serve until stopped."""
        try:
            while True:
                # From here on a stop interrupts. The order matters: first the flag, then the look at what came before.
                self._idle = True
                if self._stopping:
                    raise StopServing
                pair = link.next_pair()
                self._idle = False
                if pair is None:
                    return
                self._serve_pair(service, pair)
        except StopServing:
            self._idle = False

    def _serve_pair(self, service: Service, pair: Pair) -> None:
        data = pair.data
        assert data is not None
        later, decoder = self._later, data.decoder
        later.clear()
        try:
            while True:
                # From here on a stop interrupts; see `serve`.
                self._idle = True
                if self._stopping:
                    raise StopServing
                if not later:
                    plain = decoder.next_call()
                    if plain is not None:
                        self._idle = False
                        service.call(pair, 0, plain, data.received_at)
                        continue
                    if not decoder.pending():
                        data.receive()
                        continue
                frame = later.popleft() if later else decoder.next_frame()
                if frame is None:
                    data.receive()
                    continue
                self._idle = False
                if frame.kind == Kind.CALL:
                    service.call(pair, 0, plain_call(frame), data.received_at)
                else:
                    service.other(pair, 0, frame)
        except ConnectionLostError:
            pass
        except ProtocolError as error:
            pair.violated(error)
        finally:
            self._idle = False
            if not self._stopping:
                pair.end()
                data.close()

    def more(self, call: Call) -> None:
        """Read on until a piece of the call's request has come, or it is cancelled."""
        if not call.fed:
            call.fed = True
            call.on_cancel(self._woken)
        with self._reader:
            if not call.finished:
                self._more(call)

    def leave(self, call: Call) -> None:
        """Wait until no other thread reads for an ended call."""
        while not self._reader.acquire(blocking=False):
            self._woken()
            time.sleep(0)
        self._reader.release()

    def _more(self, call: Call) -> None:
        data = call.pair.data
        assert data is not None
        # All that has come already, within reason: a handler that must not wait takes it from the request.
        for _ in range(MAX_AHEAD):
            frame = self._from_later(call.id) or data.decoder.next_frame()
            if frame is None:
                break
            self._sort(call, frame)
        else:
            return
        assert call.request is not None
        if not call.request.whole:
            self._wait(data)

    def _sort(self, call: Call, frame: Frame) -> None:
        """Put a frame where it belongs while a call is running."""
        request = call.request
        assert request is not None
        if frame.kind == Kind.MESSAGE and frame.id == call.id:
            request.add(frame.flags, frame.payload)
        elif frame.kind == Kind.GOODBYE:
            raise ConnectionLostError("the router said goodbye")
        elif frame.kind != Kind.MESSAGE or frame.id > call.id:
            # A message with a lower id is for a call that has ended.
            self._later.append(frame)
            if len(self._later) > MAX_LATER:
                raise ProtocolError("too_many_frames", f"{len(self._later)} frames wait for call {call.id}")

    def _from_later(self, id: int) -> Frame | None:
        for index, frame in enumerate(self._later):
            if frame.id == id:
                del self._later[index]
                return frame
        return None

    def _wait(self, data: Connection) -> None:
        poll = select.poll()
        poll.register(data.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._wake in ready:
            drain(self._wake)
        else:
            data.receive()

    def _woken(self) -> None:
        os.eventfd_write(self._wake, 1)


class Interrupts:
    """Raises Interrupted within a function, by a signal, and nowhere else.

    The signal's handler raises only while a function is armed and its call is cancelled, and disarms first: at most
    one exception for each function, and none after it.
    """

    def __init__(self) -> None:
        self._armed: Call | None = None
        self._known: Call | None = None
        self._thread = threading.main_thread().ident or 0
        signal.signal(INTERRUPT, self._raise)

    def run(self, call: Call, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call the function; Interrupted is raised within it when the call is cancelled."""
        if self._known is not call:
            self._known = call
            call.on_cancel(self._interrupt)
        try:
            self._armed = call
            if call.cancelled:
                # It came before the arming, whose signal did nothing.
                raise Interrupted("the caller gave this call up")
            return function(**arguments)
        finally:
            self._armed = None

    def _interrupt(self) -> None:
        signal.pthread_kill(self._thread, INTERRUPT)

    def _raise(self, number: int, frame: object) -> None:
        call = self._armed
        if call is not None and call.cancelled:
            self._armed = None
            raise Interrupted("the caller gave this call up")


def plain_call(frame: Frame) -> PlainCall:
    """Return a Call frame as plain values."""
    number, epoch, timeout_us = frame.fixed
    return frame.flags, frame.id, number, epoch, timeout_us, frame.ext, frame.payload


def drain(descriptor: int) -> None:
    """Set an eventfd back to zero."""
    try:
        os.eventfd_read(descriptor)
    except BlockingIOError:
        pass
