"""The worker's two connections to the router, kept up for ever.

The daemon thread here owns CONTROL: it dials it, answers Ping, takes Cancel and Window. The handler's thread dials
and reads DATA of the same pair. A pair ends as a whole: whoever sees one connection end, ends the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from snakepit import logs
from snakepit.bridge import messages
from snakepit.bridge.calls import CallTable, Credit
from snakepit.bridge.protocol import INITIAL_WINDOW, Frame, GoodbyeReason, Kind, ProtocolError, Role, encode_head
from snakepit.bridge.socket import Connection, ConnectionLostError, dial, hello_frame, parse

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_LOG_SECONDS: Final = 10.0


# Not a cause of the protocol: the connection that would carry the answer is gone.
LINK_BROKEN: Final = 0


class Cancellable(Protocol):
    """A running call."""

    def cancel(self, cause: int) -> None:
        """Take note of a Cancel; must not block."""


class Identity:
    """Who this worker is: what its Hello says."""

    def __init__(self, path: str, hello: dict[str, Any], tools: list[dict[str, Any]]) -> None:
        self.path = path
        self.control = hello_frame(messages.Hello(role=int(Role.CONTROL), **hello))
        # Made once, and at the start: an adapter that declares more than a Hello carries must fail then.
        self.data = hello_frame(messages.Hello(role=int(Role.DATA), tools=tools, **hello))


class Pair:
    """One life of the link: CONTROL, then DATA beside it, and what belongs to the calls on them."""

    def __init__(self, control: Connection, welcome: Any) -> None:
        self.control = control
        self.data: Connection | None = None
        self.calls = CallTable()
        self.window: int = welcome.initial_window_bytes or INITIAL_WINDOW
        self.max_message_bytes: int = welcome.max_message_bytes or 1 << 62
        self.broken = False
        self.credit = Credit(0)
        self._running: Cancellable | None = None
        self._cancelled: int | None = None
        # Plain, because entering a Condition costs a microsecond a call.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def attach(self, data: Connection) -> None:
        """Add the DATA connection."""
        with self._lock:
            self.data = data
            if self.broken:
                data.shutdown()

    def end(self) -> None:
        """End both connections, and wake whoever waits for credit."""
        with self._lock:
            self.broken = True
            self.control.shutdown()
            if self.data is not None:
                self.data.shutdown()
            self._cancel(LINK_BROKEN)

    def _cancel(self, cause: int) -> None:
        """Tell the running call; under the lock. The order matters: see `run`."""
        self._cancelled = cause
        running = self._running
        if running is not None:
            running.cancel(cause)
        self._changed.notify_all()

    def begin(self, id: int) -> bool:
        """Begin a call; False when it is cancelled already."""
        with self._lock:
            self.credit = Credit(self.window)
            self._cancelled = None
            return self.calls.begin(id)

    def run(self, call: Cancellable) -> None:
        """Say which call hears of cancels from here on; one that came since `begin`, it hears of now."""
        self._running = call
        if self._cancelled is not None:
            call.cancel(self._cancelled)

    def finish(self, id: int) -> None:
        """End a call."""
        self._running = None
        self.calls.end(id)

    def take_credit(self, wanted: int, cancelled: Callable[[], bool]) -> int:
        """Wait for credit and take some; 0 when the call was cancelled while it waited."""
        credit = self.credit
        granted = credit.take(wanted)
        if granted or not wanted:
            return granted
        with self._lock:
            while True:
                if self.broken:
                    raise ConnectionLostError("the link broke")
                granted = credit.take(wanted)
                if granted or cancelled():
                    return granted
                self._changed.wait()

    def give_credit(self, id: int, count: int) -> None:
        """Tell the router that `count` bytes of the request were handed on."""
        self.control.send(encode_head(Kind.WINDOW, 0, id, (count,)))

    def control_frame(self, frame: Frame) -> None:
        """Obey a frame that came on CONTROL."""
        if frame.kind == Kind.PING:
            self.control.send(encode_head(Kind.PONG, 0, 0, frame.fixed))
        elif frame.kind == Kind.CANCEL:
            with self._lock:
                if self.calls.cancel(frame.id, frame.fixed[0]):
                    self._cancel(frame.fixed[0])
        elif frame.kind == Kind.WINDOW:
            with self._lock:
                if frame.id == self.calls.running:
                    self.credit.give(frame.fixed[0])
                    self._changed.notify_all()
        elif frame.kind == Kind.GOODBYE:
            farewell = parse(messages.Goodbye, frame.payload)
            raise ConnectionLostError(f"the router said goodbye: {farewell.reason} {farewell.message}")
        elif frame.kind in _MISPLACED:
            raise ProtocolError("wrong_connection", f"{frame!r} does not belong on CONTROL")


_MISPLACED: Final = frozenset(set(Kind) - {Kind.PONG})


class Link:
    """Gives the handler's thread one pair after the other."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._changed = threading.Condition()
        self._pair: Pair | None = None
        self._ended = False
        self._complained = 0.0
        self._thread = threading.Thread(target=self._run, name="snakepit-control", daemon=True)

    def start(self) -> None:
        """Start the thread that keeps CONTROL up."""
        self._thread.start()

    def next_pair(self) -> Pair:
        """Wait for a pair whose two connections are welcome."""
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pair is not None and not self._pair.broken)
                pair = self._pair
            assert pair is not None
            try:
                data, _ = dial(self._identity.path, self._identity.data)
            except (ConnectionLostError, ProtocolError) as error:
                self._complain("DATA", error)
                pair.end()
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pair.attach(data)
            return pair

    def close(self) -> None:
        """Say goodbye on both connections, for good."""
        self._ended = True
        pair = self._pair
        if pair is not None and not pair.broken:
            for connection in (pair.data, pair.control):
                if connection is not None:
                    connection.goodbye(GoodbyeReason.SHUTDOWN, "the worker ends")

    def descriptors(self) -> list[int]:
        """Return the descriptors of the open connections."""
        pair = self._pair
        connections = [] if pair is None else [pair.control, pair.data]
        return [c.fileno() for c in connections if c is not None and c.fileno() >= 0]

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._ended:
            try:
                control, welcome = dial(self._identity.path, self._identity.control)
            except (ConnectionLostError, ProtocolError) as error:
                self._complain("CONTROL", error)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            pair = Pair(control, welcome)
            with self._changed:
                self._pair = pair
                self._changed.notify_all()
            self._read(pair)

    def _read(self, pair: Pair) -> None:
        try:
            while True:
                pair.control_frame(pair.control.read_frame())
        except ProtocolError as error:
            logs.write("worker", "the router broke the rules on CONTROL", error=error)
            pair.control.goodbye(GoodbyeReason.PROTOCOL_ERROR, str(error))
        except ConnectionLostError as error:
            self._complain("CONTROL", error)
        pair.end()
        pair.control.close()

    def _complain(self, which: str, error: Exception) -> None:
        now = time.monotonic()
        if self._ended or now - self._complained < _LOG_SECONDS:
            return
        self._complained = now
        logs.write("worker", "no link to the router, trying again", connection=which, error=error)
