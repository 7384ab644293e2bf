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
from snakepit.bridge.calls import CallTable, Credit, Request
from snakepit.bridge.marks import MARK_BYTES, Marks, new_marks
from snakepit.bridge.protocol import (
    INITIAL_WINDOW,
    Frame,
    GoodbyeReason,
    Kind,
    ProtocolError,
    Role,
    encode_head,
)
from snakepit.bridge.socket import Connection, ConnectionLostError, dial, hello_frame, parse

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_LOG_SECONDS: Final = 10.0


# Not a cause of the protocol: the connection that would carry the answer is gone.
LINK_BROKEN: Final = 0
Callbacks = list[Callable[[], None]]


class Cancellable(Protocol):
    """A running call."""

    # Its credit once a message was sent or a Window came, guarded by the pair's lock.
    credit: Credit | None

    def cancel(self, cause: int) -> Callbacks:
        """Take note of a Cancel, under the pair's lock; return whom to tell, without that lock."""


_CONTROL: Final[bytes] = messages.Hello(role=int(Role.CONTROL)).SerializeToString()
_DATA: Final[bytes] = messages.Hello(role=int(Role.DATA)).SerializeToString()


class Identity:
    """Who this worker is: what its Hello says. `hello` and `data`, for DATA alone, are serialized Hellos."""

    def __init__(self, path: str, hello: bytes, data: bytes, files: list[bytes], slots: int) -> None:
        self.path = path
        self.slots = slots
        # Whether one thread owns DATA.
        self.owned = slots == 1
        self.control = hello_frame(_CONTROL + hello)
        # Made once, and at the start: an adapter that declares more than a Hello carries must fail then.
        said = _DATA + hello + data + messages.Hello(slots=slots, marks_bytes=slots * MARK_BYTES).SerializeToString()
        try:
            reflected = messages.Hello(file_descriptors=files).SerializeToString() if files else b""
            self.data = hello_frame(said + reflected)
        except ValueError:
            # Reflection is what can be done without.
            self.data = hello_frame(said)


class Pair:
    """One life of the link: CONTROL, then DATA beside it, and what belongs to the calls on them."""

    def __init__(self, control: Connection) -> None:
        self.control = control
        self.data: Connection | None = None
        # What DATA's Welcome said.
        self.version = 1
        self.window = INITIAL_WINDOW
        self.max_message_bytes = 1 << 62
        # Where calls are marked that begin, by slot, guarded by the lock; None when each is told by Accepted.
        self.marks: memoryview | None = None
        self.broken = False
        self.calls: CallTable[Cancellable] = CallTable()
        # Requests that come in pieces, where another thread than the call's may read them.
        self.requests: dict[int, Request] = {}
        # Plain, because entering a Condition costs a microsecond a call.
        self.lock: Final = threading.Lock()
        self._changed = threading.Condition(self.lock)

    def attach(self, data: Connection, welcome: Any, marks: Marks | None = None) -> None:
        """Add the DATA connection."""
        with self.lock:
            if marks is not None and welcome.marks:
                self.marks = marks.words
            self.version = welcome.version
            self.window = welcome.initial_window_bytes or INITIAL_WINDOW
            self.max_message_bytes = welcome.max_message_bytes or 1 << 62
            self.data = data
            if self.broken:
                data.shutdown()

    def end(self) -> None:
        """End both connections, tell the running calls, and wake whoever waits for credit."""
        if self._break():
            self._ended()

    def _break(self) -> bool:
        """See to it that no call begins any more; False when that was so already.

        Before the router can read that a connection ended: from then on it takes the marks as final.
        """
        with self.lock:
            before, self.broken = self.broken, True
        return not before

    def _ended(self) -> None:
        with self.lock:
            self.control.shutdown()
            if self.data is not None:
                self.data.shutdown()
            # A copy: calls end without the lock.
            running = list(self.calls.running.values())
            callbacks = [callback for call in running for callback in call.cancel(LINK_BROKEN)]
            self._changed.notify_all()
        _tell(callbacks)

    def violated(self, error: ProtocolError) -> None:
        """Say that the router broke the rules on DATA, and end."""
        logs.write("worker", "the router broke the rules on DATA", error=error)
        if not self._break():
            return
        if self.data is not None:
            self.data.goodbye(GoodbyeReason.PROTOCOL_ERROR, str(error))
        self._ended()

    def take_credit(self, call: Cancellable, wanted: int, cancelled: Callable[[], bool]) -> int:
        """Wait for credit and take some; 0 when nothing more can be sent for the call."""
        with self.lock:
            credit = self._credit(call)
            while True:
                granted = credit.take(wanted)
                if granted or not wanted or self.broken or cancelled():
                    return granted
                self._changed.wait()

    def take_credit_now(self, call: Cancellable, wanted: int) -> bool:
        """Take credit for one frame without waiting; False when there is not enough."""
        with self.lock:
            return self._credit(call).take_all(wanted)

    def give_credit(self, id: int, count: int) -> None:
        """Tell the router that `count` bytes of the request were handed on."""
        try:
            self.control.write(encode_head(Kind.WINDOW, 0, id, (count,)))
        except ConnectionLostError:
            # Whoever reads finds out.
            pass

    def control_frame(self, frame: Frame) -> None:
        """Obey a frame that came on CONTROL."""
        if frame.kind == Kind.PING:
            self.control.write(encode_head(Kind.PONG, 0, 0, frame.fixed))
        elif frame.kind == Kind.CANCEL:
            with self.lock:
                call = self.calls.cancel(frame.id)
                callbacks = [] if call is None else call.cancel(frame.fixed[0])
                self._changed.notify_all()
            _tell(callbacks)
        elif frame.kind == Kind.RECALL:
            with self.lock:
                promised = self.calls.recall(frame.id)
            if promised:
                self.control.write(encode_head(Kind.RECALLED, 0, frame.id))
        elif frame.kind == Kind.WINDOW:
            with self.lock:
                call = self.calls.running.get(frame.id)
                if call is not None:
                    self._credit(call).give(frame.fixed[0])
                    self._changed.notify_all()
        elif frame.kind == Kind.GOODBYE:
            farewell = parse(messages.Goodbye, frame.payload)
            raise ConnectionLostError(f"the router said goodbye: {farewell.reason} {farewell.message}")
        elif frame.kind in _MISPLACED:
            raise ProtocolError("wrong_connection", f"{frame!r} does not belong on CONTROL")

    def _credit(self, call: Cancellable) -> Credit:
        credit = call.credit
        if credit is None:
            credit = call.credit = Credit(self.window)
        return credit


def _tell(callbacks: Callbacks) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception as error:
            logs.write("worker", "a callback of a cancelled call raised", error=repr(error))


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

    def next_pair(self) -> Pair | None:
        """Wait for a pair whose two connections are welcome; None once the link was closed."""
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or (self._pair is not None and not self._pair.broken))
                pair = self._pair
            if self._ended or pair is None:
                return None
            try:
                data, welcome, marks = self._dial()
            except (ConnectionLostError, ProtocolError) as error:
                self._complain("DATA", error)
                pair.end()
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pair.attach(data, welcome, marks)
            return pair

    def _dial(self) -> tuple[Connection, Any, Marks | None]:
        identity = self._identity
        marks = new_marks(identity.slots)
        if marks is None:
            return *dial(identity.path, identity.data, identity.owned), None
        try:
            return *dial(identity.path, identity.data, identity.owned, marks.descriptor), marks
        finally:
            marks.sent()

    def close(self) -> None:
        """Say goodbye on both connections, for good."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
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
                control, _ = dial(self._identity.path, self._identity.control)
            except (ConnectionLostError, ProtocolError) as error:
                self._complain("CONTROL", error)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            pair = Pair(control)
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
