"""The frames of the bridge: numbers, limits and the codec, without input or output (docs/bridge.md).

Nothing here knows sockets, threads, clocks or protobuf: bytes in, frames out. Who may send what when is said by
`calls`, `sessions` and `supervision` beside this module, which keep the same rule.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

# The versions that this package speaks, and the first one with several calls, gRPC methods, Headers and Recall.
VERSIONS: Final = (1, 2)
VERSION_2: Final = 2
HEADER_BYTES: Final = 12
# The header's bytes that the length field counts.
COUNTED_HEADER_BYTES: Final = 8
MAX_LENGTH: Final = 327_688
MAX_PAYLOAD: Final = 262_144
MAX_EXT: Final = 65_535
MAX_TOOLS: Final = 256
MAX_METHODS: Final = 1024
MAX_METHOD_PATH: Final = 256
MAX_SLOTS: Final = 256
MAX_SESSION_NAME: Final = 128
INITIAL_WINDOW: Final = 1 << 20

FLAG_MESSAGE: Final = 0x01
FLAG_END_MESSAGE: Final = 0x02
FLAG_END_STREAM: Final = 0x04
FLAGS_WHOLE: Final = FLAG_MESSAGE | FLAG_END_MESSAGE | FLAG_END_STREAM


class Kind(enum.IntEnum):
    """Frame kinds."""

    HELLO = 0x01
    WELCOME = 0x02
    GOODBYE = 0x03
    CALL = 0x10
    ACCEPTED = 0x11
    MESSAGE = 0x12
    FINISH = 0x13
    CANCEL = 0x14
    WINDOW = 0x15
    HEADERS = 0x16
    RECALL = 0x17
    RECALLED = 0x18
    PING = 0x20
    PONG = 0x21
    SESSION_OPEN = 0x22
    SESSION_OPENED = 0x23
    SESSION_CLOSE = 0x24
    SESSION_CLOSED = 0x25
    CONTROL = 0x30


class Role(enum.IntEnum):
    """What a connection is for (bridge.proto, Role)."""

    DATA = 1
    CONTROL = 2
    SUPERVISOR = 3


class Outcome(enum.IntEnum):
    """Outcome of a Finish: whether user code ran, and if not, why."""

    DONE = 0
    REFUSED_SESSION = 1
    REFUSED_TOOL = 2
    REFUSED_DEADLINE = 3
    REFUSED_CANCELLED = 4
    REFUSED_SESSION_START = 5


class OpenStatus(enum.IntEnum):
    """Status of SessionOpened."""

    OPEN = 0
    START_RAISED = 1
    BELOW_FLOOR = 2


class CloseStatus(enum.IntEnum):
    """Status of SessionClosed."""

    ENDED = 0
    END_RAISED = 1
    NOT_HELD = 2


class CancelCause(enum.IntEnum):
    """Cause of Cancel."""

    CALLER = 1
    DEADLINE = 2
    DRAIN = 3


class CloseCause(enum.IntEnum):
    """Cause of SessionClose."""

    CALLER = 1
    IDLE = 2
    MOVED = 3
    DRAIN = 4


class GoodbyeReason(enum.IntEnum):
    """Why a connection is closed (bridge.proto, GoodbyeReason)."""

    SHUTDOWN = 1
    PROTOCOL_ERROR = 2
    VERSION = 3
    IDENTITY = 4
    DUPLICATE = 5


class StartMethod(enum.IntEnum):
    """How workers are started (bridge.proto, StartMethod)."""

    AUTO = 0
    FORK = 1
    SPAWN = 2


class AdapterPhase(enum.IntEnum):
    """How the import of the adapter stands (bridge.proto, AdapterPhase)."""

    LOADING = 1
    LOADED = 2
    FAILED = 3


class ToolKind(enum.IntEnum):
    """How a tool answers (bridge.proto, ToolKind)."""

    UNARY = 1
    STREAM = 2


_HEADER: Final = struct.Struct("<IBBHI")
_NOTHING: Final = struct.Struct("<")
# The fixed parts; pad bytes are the reserved fields.
FIXED: Final[dict[int, struct.Struct]] = {
    **dict.fromkeys(Kind, _NOTHING),
    Kind.CALL: struct.Struct("<H6xQQ"),
    Kind.FINISH: struct.Struct("<HH"),
    Kind.CANCEL: struct.Struct("<H2x"),
    Kind.WINDOW: struct.Struct("<I"),
    Kind.PING: struct.Struct("<Q"),
    Kind.PONG: struct.Struct("<Q"),
    Kind.SESSION_OPEN: struct.Struct("<Q"),
    Kind.SESSION_OPENED: struct.Struct("<QH2x"),
    Kind.SESSION_CLOSE: struct.Struct("<QH2x"),
    Kind.SESSION_CLOSED: struct.Struct("<QH2x"),
}
# Names of the fields in the fixed parts, in order.
FIELDS: Final[dict[int, tuple[str, ...]]] = {
    **dict.fromkeys(Kind, ()),
    Kind.CALL: ("tool", "epoch", "timeout_us"),
    Kind.FINISH: ("code", "outcome"),
    Kind.CANCEL: ("cause",),
    Kind.WINDOW: ("bytes",),
    Kind.PING: ("nonce",),
    Kind.PONG: ("nonce",),
    Kind.SESSION_OPEN: ("epoch",),
    Kind.SESSION_OPENED: ("epoch", "status"),
    Kind.SESSION_CLOSE: ("epoch", "cause"),
    Kind.SESSION_CLOSED: ("epoch", "status"),
}
# Kinds whose payload is a piece of a message.
_PIECES: Final = frozenset((int(Kind.CALL), int(Kind.MESSAGE), int(Kind.FINISH)))
_FIXED_PLAIN: Final = {int(kind): (layout, layout.size) for kind, layout in FIXED.items()}


class ProtocolError(Exception):
    """The peer broke the rules; the connection must be closed with Goodbye PROTOCOL_ERROR."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        # One of too_long, too_short, truncated_fixed, truncated_ext, payload_too_long, or a rule's name.
        self.code = code


class Frame:
    """One frame. An unknown kind keeps everything after the header as its payload."""

    __slots__ = ("ext", "fixed", "flags", "id", "kind", "payload")

    def __init__(
        self,
        kind: int,
        flags: int = 0,
        id: int = 0,
        fixed: tuple[int, ...] = (),
        ext: bytes = b"",
        payload: bytes = b"",
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.id = id
        self.fixed = fixed
        self.ext = ext
        self.payload = payload

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # compared by value, and mutable

    def __repr__(self) -> str:
        name = Kind(self.kind).name if self.kind in _FIXED_PLAIN else hex(self.kind)
        return (
            f"Frame({name}, flags={self.flags}, id={self.id}, fixed={self.fixed}, "
            f"ext={len(self.ext)} bytes, payload={len(self.payload)} bytes)"
        )

    def encode(self) -> bytes:
        """Return the bytes of this frame."""
        head = encode_head(self.kind, self.flags, self.id, self.fixed, self.ext, len(self.payload))
        return head + self.payload


def encode_head(
    kind: int,
    flags: int,
    id: int,
    fixed: tuple[int, ...] = (),
    ext: bytes = b"",
    payload_bytes: int = 0,
) -> bytes:
    """Return the bytes of a frame up to its payload, so that a large payload need not be copied."""
    layout, size = _FIXED_PLAIN.get(kind, (_NOTHING, 0))
    ext_bytes = len(ext)
    length = COUNTED_HEADER_BYTES + size + ext_bytes + payload_bytes
    if length > MAX_LENGTH or ext_bytes > MAX_EXT or (payload_bytes > MAX_PAYLOAD and kind in _PIECES):
        raise ValueError(f"frame of kind {kind:#x} is too long: {ext_bytes} + {payload_bytes} bytes")
    return _HEADER.pack(length, kind, flags, ext_bytes, id) + layout.pack(*fixed) + ext


_ACCEPTED: Final = struct.Struct("<IBBHI")
_FINISHED: Final = struct.Struct("<IBBHIHH")
_KIND_ACCEPTED: Final = int(Kind.ACCEPTED)
_KIND_FINISH: Final = int(Kind.FINISH)


def accepted(id: int) -> bytes:
    """Return the bytes of an Accepted frame; the same as `encode_head`, for the hot path."""
    return _ACCEPTED.pack(COUNTED_HEADER_BYTES, _KIND_ACCEPTED, 0, 0, id)


def finished_head(id: int, payload_bytes: int) -> bytes:
    """Return the head of a Finish with code OK and the last piece of a message; for the hot path."""
    flags = FLAG_MESSAGE | FLAG_END_MESSAGE
    return _FINISHED.pack(COUNTED_HEADER_BYTES + 4 + payload_bytes, _KIND_FINISH, flags, 0, id, 0, 0)


# The header and the fixed part of a Call in one.
_CALL_HEAD: Final = struct.Struct("<IBBHIH6xQQ")
_CALL_BYTES: Final = _CALL_HEAD.size
_KIND_CALL: Final = int(Kind.CALL)

# A whole Call as plain values: flags, id, tool, epoch, timeout_us, extension, payload.
PlainCall = tuple[int, int, int, int, int, bytes, bytes]


class Decoder:
    """Turns received bytes into frames.

    Write received bytes into `space()` and say how many with `received()`, or hand them to `feed()`; then call
    `next_frame()` until it returns None, and only then receive again. One buffer is used over and over, and it
    grows only to the length that a header announced and that is within the limit.
    """

    def __init__(self) -> None:
        # Two of them in each worker, written to by zeros at once: little, as it grows with the first long frame.
        self._buffer = bytearray(1 << 12)
        # Kept, because making one costs more than slicing it. A larger buffer gets a new one.
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def space(self) -> memoryview:
        """Return room for at least one byte; it is good until anything else is called."""
        if self._start == self._end:
            self._start = self._end = 0
            # A slice: who gets it may release it.
            return self._view[:]
        size = len(self._buffer)
        if self._end == size or (self._start and size - self._end < size // 4):
            self._compact()
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Say that `count` bytes were written into what `space()` returned."""
        self._end += count

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self.space()
        end = self._end + len(data)
        if end > len(self._buffer):
            self._grow(end)
        self._view[self._end : end] = data
        self._end = end

    def pending(self) -> int:
        """Return the number of bytes that are not yet part of a returned frame."""
        return self._end - self._start

    def next_call(self) -> PlainCall | None:
        """Return the next frame if it is a Call that has arrived whole; if not, `next_frame` says what comes."""
        start = self._start
        if self._end - start < _CALL_BYTES:
            return None
        length, kind, flags, ext_bytes, id, tool, epoch, timeout_us = _CALL_HEAD.unpack_from(self._buffer, start)
        stop = start + 4 + length
        body = start + _CALL_BYTES + ext_bytes
        if kind != _KIND_CALL or stop > self._end or body > stop or stop - body > MAX_PAYLOAD:
            return None
        self._start = stop
        view = self._view
        ext = bytes(view[body - ext_bytes : body]) if ext_bytes else b""
        return flags, id, tool, epoch, timeout_us, ext, bytes(view[body:stop])

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None when bytes are missing."""
        start = self._start
        available = self._end - start
        if available < HEADER_BYTES:
            if available >= 4:
                self._check_length(int.from_bytes(self._buffer[start : start + 4], "little"))
            return None
        length, kind, flags, ext_bytes, id = _HEADER.unpack_from(self._buffer, start)
        if length > MAX_LENGTH or length < COUNTED_HEADER_BYTES:
            self._check_length(length)
        stop = start + 4 + length
        if stop > self._end:
            return None
        self._start = stop
        at = start + HEADER_BYTES
        view = self._view
        known = _FIXED_PLAIN.get(kind)
        if known is None:
            return Frame(kind, flags, id, (), b"", bytes(view[at:stop]))
        layout, size = known
        if at + size > stop:
            raise ProtocolError("truncated_fixed", f"frame of kind {kind:#x} is shorter than its fixed part")
        body = at + size + ext_bytes
        if body > stop:
            raise ProtocolError("truncated_ext", f"frame of kind {kind:#x} is shorter than its extension")
        if stop - body > MAX_PAYLOAD and kind in _PIECES:
            raise ProtocolError("payload_too_long", f"payload of {stop - body} bytes is above {MAX_PAYLOAD}")
        fixed = layout.unpack_from(self._buffer, at)
        ext = bytes(view[at + size : body]) if ext_bytes else b""
        return Frame(kind, flags, id, fixed, ext, bytes(view[body:stop]))

    def frames(self) -> Iterator[Frame]:
        """Yield every whole frame that has arrived."""
        while (frame := self.next_frame()) is not None:
            yield frame

    def _check_length(self, length: int) -> None:
        if length > MAX_LENGTH:
            raise ProtocolError("too_long", f"frame length {length} is above {MAX_LENGTH}")
        if length < COUNTED_HEADER_BYTES:
            raise ProtocolError("too_short", f"frame length {length} is below {COUNTED_HEADER_BYTES}")

    def _compact(self) -> None:
        """Move what is left to the front, and make room for the frame that has begun."""
        rest = self._end - self._start
        wanted = len(self._buffer)
        if rest >= 4:
            length = int.from_bytes(self._buffer[self._start : self._start + 4], "little")
            self._check_length(length)
            wanted = max(wanted, 4 + length)
        if self._start:
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        if wanted > len(self._buffer):
            self._grow(wanted)

    def _grow(self, size: int) -> None:
        larger = bytearray(size)
        larger[: self._end] = self._view[: self._end]
        self._buffer = larger
        self._view = memoryview(larger)
