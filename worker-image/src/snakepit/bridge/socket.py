"""Sockets of the bridge: blocking connections that the reading thread owns, and the dial with Hello and Welcome."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Final

from snakepit.bridge import messages
from snakepit.bridge.protocol import VERSIONS, Decoder, Frame, GoodbyeReason, Kind, ProtocolError, encode_head

# Larger payloads are not copied behind their header.
_JOIN_BYTES: Final = 32 << 10
DIAL_TIMEOUT_SECONDS: Final = 15.0


class ConnectionLostError(Exception):
    """The link is gone: end of file, an error of the socket, or a Goodbye."""


class RefusedError(ConnectionLostError):
    """The router answered Hello with Goodbye."""

    def __init__(self, reason: int, message: str) -> None:
        name = GoodbyeReason(reason).name if reason in list(GoodbyeReason) else str(reason)
        super().__init__(f"refused with {name}: {message}")
        self.reason = reason


class Connection:
    """One connection. One thread reads at a time. Any thread sends, unless one thread is said to own it."""

    def __init__(self, sock: socket.socket, owned: bool = False) -> None:
        self._socket = sock
        self.decoder: Final = Decoder()
        self._lock = threading.Lock()
        # When the last bytes came, in terms of time.monotonic_ns(): deadlines of calls count from it.
        self.received_at = 0
        # Sends one short frame, given whole.
        self.write: Final = self._write if owned else self._write_locked

    def fileno(self) -> int:
        """Return the descriptor, for poll."""
        return self._socket.fileno()

    def pending(self) -> bool:
        """Whether received bytes wait that are not a returned frame yet."""
        return self.decoder.pending() > 0

    def receive(self) -> None:
        """Wait for bytes; raise ConnectionLostError at the end."""
        decoder = self.decoder
        try:
            count = self._socket.recv_into(decoder.space())
        except OSError as error:
            raise ConnectionLostError(str(error)) from None
        if count == 0:
            raise ConnectionLostError("end of file")
        decoder.received(count)
        self.received_at = time.monotonic_ns()

    def read_frame(self) -> Frame:
        """Return the next frame, waiting for it."""
        while (frame := self.decoder.next_frame()) is None:
            self.receive()
        return frame

    def _write(self, frame: bytes) -> None:
        try:
            sent = self._socket.send(frame)
            if sent != len(frame):
                # A signal came in between.
                self._socket.sendall(frame[sent:])
        except OSError as error:
            raise ConnectionLostError(str(error)) from None

    def _write_locked(self, frame: bytes) -> None:
        with self._lock:
            self._write(frame)

    def send(self, head: bytes, payload: bytes = b"") -> None:
        """Send one frame: its head from `encode_head`, and its payload."""
        if len(payload) <= _JOIN_BYTES:
            self.write(head + payload)
            return
        try:
            with self._lock:
                sent = self._socket.sendmsg((head, payload))
                if sent < len(head):
                    self._socket.sendall(head[sent:])
                    sent = len(head)
                with memoryview(payload) as rest:
                    self._socket.sendall(rest[sent - len(head) :])
        except OSError as error:
            raise ConnectionLostError(str(error)) from None

    def goodbye(self, reason: GoodbyeReason, message: str) -> None:
        """Say why, and end the connection; never raises."""
        farewell = messages.Goodbye(reason=int(reason), message=message[:256]).SerializeToString()
        try:
            self.send(encode_head(Kind.GOODBYE, 0, 0, payload_bytes=len(farewell)), farewell)
        except ConnectionLostError:
            pass
        self.shutdown()

    def shutdown(self) -> None:
        """End the connection so that a thread that reads it wakes up; never raises."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Give the descriptor back. Only the reading thread may, so that no other reads a reused number."""
        self._socket.close()


def welcome_of(frame: Frame) -> Any:
    """Return the Welcome in the first frame from the router, or raise."""
    if frame.kind == Kind.GOODBYE:
        farewell = parse(messages.Goodbye, frame.payload)
        raise RefusedError(farewell.reason, farewell.message)
    if frame.kind != Kind.WELCOME:
        raise ProtocolError("not_welcome", f"the first frame is {frame!r}, not Welcome")
    welcome = parse(messages.Welcome, frame.payload)
    if welcome.version not in VERSIONS:
        raise ProtocolError("version", f"the router chose version {welcome.version}, which nobody offered")
    return welcome


def parse(message: Any, data: bytes) -> Any:
    """Parse a protobuf message of the bridge, or raise ProtocolError."""
    try:
        return message.FromString(data)
    except Exception as error:  # the class of protobuf's DecodeError depends on its version
        raise ProtocolError("bad_protobuf", f"{message.DESCRIPTOR.name} does not parse: {error}") from None


def hello_frame(payload: bytes) -> bytes:
    """Return the bytes of a frame with a serialized Hello; ValueError when it does not fit."""
    return encode_head(Kind.HELLO, 0, 0, payload_bytes=len(payload)) + payload


def dial(path: str, hello: bytes, owned: bool = False, hand: int = -1) -> tuple[Connection, Any]:
    """Connect to the router and say Hello; return the connection and the Welcome.

    `owned`: see Connection. `hand` is a descriptor that goes with the Hello, -1 for none.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(DIAL_TIMEOUT_SECONDS)
        sock.connect(path)
        connection = Connection(sock, owned)
        if hand >= 0:
            hello = hello[socket.send_fds(sock, [hello], [hand]) :]
        connection.send(hello)
        welcome = welcome_of(connection.read_frame())
        sock.settimeout(None)
    except OSError as error:
        sock.close()
        raise ConnectionLostError(str(error)) from None
    except BaseException:
        sock.close()
        raise
    return connection, welcome
