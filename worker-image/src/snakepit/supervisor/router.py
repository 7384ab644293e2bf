"""The supervisor's connection to the router, without blocking: dial, Hello, frames, and dialling again."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from snakepit import logs
from snakepit.bridge import messages
from snakepit.bridge.protocol import Decoder, Frame, GoodbyeReason, Kind, ProtocolError, encode_head
from snakepit.bridge.socket import ConnectionLostError, hello_frame, parse, welcome_of
from snakepit.supervisor.watch import Watch

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_LOG_SECONDS: Final = 10.0
_MAX_UNSENT: Final = 16 << 20
_MANY_UNSENT: Final = 64 << 10


def _control(message: Any) -> bytes:
    payload: bytes = message.SerializeToString()
    return encode_head(Kind.CONTROL, 0, 0, payload_bytes=len(payload)) + payload


class RouterLink:
    """One link after the other. The owner calls `tick` when it is time to dial."""

    def __init__(
        self, watch: Watch, path: str, hello: Callable[[], Iterator[Any]], obey: Callable[[Any], None]
    ) -> None:
        """`hello` yields the Hello, and then the FromSupervisor messages that it had no room for."""
        self._watch = watch
        self._path = path
        self._hello = hello
        self._obey = obey
        self.sock: socket.socket | None = None
        self.welcome = False
        # Since when there is no router; None while there is one. The first tick begins it.
        self.alone_since: float | None = None
        self._decoder = Decoder()
        self._unsent = bytearray()
        # What follows the Hello, a message each time that all before it was sent.
        self._rest: Iterator[Any] = iter(())
        # What may only be sent after Welcome.
        self._held = bytearray()
        self._pause = _FIRST_PAUSE
        self.dial_at: float = 0.0
        self._complained = -_LOG_SECONDS

    @property
    def caught_up(self) -> bool:
        """Whether the router is there and reads: what is stale a moment later is only sent then."""
        return self.welcome and len(self._unsent) < _MANY_UNSENT

    def tick(self, now: float) -> None:
        """Dial when it is time."""
        if self.alone_since is None and not self.welcome:
            self.alone_since = now
        if self.sock is not None or now < self.dial_at:
            return
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            # Too many open files may be fewer a moment later.
            self._later(now, str(error))
            return
        sock.setblocking(False)
        problem = sock.connect_ex(self._path)
        if problem:
            sock.close()
            self._later(now, f"{self._path}: {errno.errorcode.get(problem, problem)}")
            return
        self.sock = sock
        self._watch.add(sock, self._ready)
        self.welcome = False
        self._decoder = Decoder()
        # Made now: what changes from here on follows it as Control frames.
        self._rest = self._hello()
        self._unsent = bytearray(hello_frame(next(self._rest).SerializeToString()))
        self.writable(now)

    def send(self, message: Any, now: float) -> None:
        """Send a FromSupervisor. Without a link it is dropped: the next Hello says everything."""
        if self.sock is None:
            return
        frame = _control(message)
        if not self.welcome:
            self._held += frame
            return
        self._unsent += frame
        self.writable(now)

    def _ready(self, now: float) -> None:
        self.writable(now)
        if self.sock is not None:
            self.readable(now)

    def writable(self, now: float) -> None:
        """Send what the socket takes, and ask to be called again while something is left."""
        try:
            while self.sock is not None and (self._unsent or self._more()):
                sent = self.sock.send(self._unsent)
                del self._unsent[:sent]
            if self.sock is not None:
                self._watch.want_write(self.sock, False)
        except BlockingIOError:
            assert self.sock is not None
            self._watch.want_write(self.sock, True)
            if len(self._unsent) > _MAX_UNSENT:
                self._lost(now, "the router does not read")
        except OSError as error:
            self._lost(now, str(error))

    def _more(self) -> bool:
        """Take the next part of what follows the Hello; False when there is none, or it must wait."""
        message = next(self._rest, None) if self.welcome else None
        if message is not None:
            self._unsent += _control(message)
        return message is not None

    def readable(self, now: float) -> None:
        """Read and obey what has come."""
        try:
            self._receive()
            for frame in self._decoder.frames():
                self._frame(frame, now)
        except BlockingIOError:
            return
        except (OSError, ConnectionLostError) as error:
            self._lost(now, str(error))
        except ProtocolError as error:
            self._unsent.clear()
            self._goodbye(GoodbyeReason.PROTOCOL_ERROR, str(error))
            self._lost(now, f"the router broke the rules: {error}")

    def _receive(self) -> None:
        assert self.sock is not None
        with self._decoder.space() as room:
            count = self.sock.recv_into(room)
        if count == 0:
            raise ConnectionLostError("end of file")
        self._decoder.received(count)

    def _frame(self, frame: Frame, now: float) -> None:
        if not self.welcome:
            welcome_of(frame)
            self.welcome = True
            self.alone_since = None
            self._pause = _FIRST_PAUSE
            self._complained = -_LOG_SECONDS
            logs.write("supervisor", "connected to the router")
            self._unsent += self._held
            self._held.clear()
            self.writable(now)
        elif frame.kind == Kind.PING:
            self._unsent += encode_head(Kind.PONG, 0, 0, frame.fixed)
            self.writable(now)
        elif frame.kind == Kind.CONTROL:
            self._obey(parse(messages.ToSupervisor, frame.payload))
        elif frame.kind == Kind.GOODBYE:
            farewell = parse(messages.Goodbye, frame.payload)
            raise ConnectionLostError(f"goodbye from the router: {farewell.reason} {farewell.message}")
        elif frame.kind in list(Kind) and frame.kind != Kind.PONG:
            raise ProtocolError("wrong_connection", f"{frame!r} does not belong on SUPERVISOR")

    def close(self) -> None:
        """Say goodbye, for good."""
        self._goodbye(GoodbyeReason.SHUTDOWN, "the supervisor ends")
        if self.sock is not None:
            self._watch.remove(self.sock)
            self.sock.close()
            self.sock = None

    def _goodbye(self, reason: GoodbyeReason, message: str) -> None:
        if self.sock is None:
            return
        farewell = messages.Goodbye(reason=int(reason), message=message[:256]).SerializeToString()
        self._unsent += self._held + encode_head(Kind.GOODBYE, 0, 0, payload_bytes=len(farewell)) + farewell
        try:
            self.sock.setblocking(True)
            self.sock.settimeout(0.2)
            self.sock.sendall(self._unsent)
        except OSError:
            # It is gone already; there is nobody to tell.
            pass

    def _lost(self, now: float, why: str) -> None:
        if self.sock is not None:
            self._watch.remove(self.sock)
            self.sock.close()
        self.sock = None
        self.welcome = False
        self._unsent.clear()
        self._held.clear()
        self._later(now, why)

    def _later(self, now: float, why: str) -> None:
        self.dial_at = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        if now - self._complained >= _LOG_SECONDS:
            self._complained = now
            logs.write("supervisor", "no link to the router, trying again", error=why)
