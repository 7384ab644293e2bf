"""What a worker tells its supervisor, inside the container: sessions, readiness, and the page of running calls.

Not part of the bridge: both ends are always the same version. The channel is a SOCK_SEQPACKET socket, one message
a packet; the page is shared memory with 16 bytes for each call that may run at a time.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import socket
import struct
from typing import Any, Final

from snakepit.bridge.protocol import MAX_SESSION_NAME

_CHANGE: Final = struct.Struct("<cQ")
_JOB: Final = struct.Struct("<HQ16s?H")
# Room for 256 calls at a time, the most that a worker may run.
PAGE_BYTES: Final = 4096
MAX_PACKET: Final = 8192


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker process is told when it starts."""

    adapter: str
    arguments: list[str]
    bridge: str
    pod_uid: str
    pod_name: str
    slot: int
    nonce: int
    # Hexadecimal.
    proof: str
    forked: bool
    # For numeric libraries, 1 or more.
    threads: int = 1

    def to_bytes(self) -> bytes:
        """Return the job in a form that costs little memory to read: each page touched after a fork is one more."""
        head = _JOB.pack(self.slot, self.nonce, bytes.fromhex(self.proof), self.forked, self.threads)
        words = (self.adapter, self.bridge, self.pod_uid, self.pod_name, *self.arguments)
        # They came as arguments and environment variables, which hold no NUL.
        return head + "\0".join(words).encode("utf-8", "surrogateescape")

    @classmethod
    def from_bytes(cls, data: bytes) -> Job:
        """Return the job that `to_bytes` made."""
        slot, nonce, proof, forked, threads = _JOB.unpack_from(data)
        adapter, bridge, uid, name, *arguments = data[_JOB.size :].decode("utf-8", "surrogateescape").split("\0")
        return cls(adapter, arguments, bridge, uid, name, slot, nonce, proof.hex(), forked, threads)


@dataclasses.dataclass(frozen=True)
class Ready:
    """setup has run."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The adapter has been imported (by a spawned worker)."""


@dataclasses.dataclass(frozen=True)
class Failed:
    """The import or setup raised, or what ended the process later."""

    # import, setup or run.
    stage: str
    type: str
    place: str
    message: str


@dataclasses.dataclass(frozen=True)
class Changed:
    """A session's life began or ended."""

    name: str
    epoch: int
    closed: bool


Word = Ready | Loaded | Failed | Changed


class Reporter:
    """The worker's end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def say(self, word: Word) -> None:
        """Send a word. A supervisor that is gone is no reason to raise: the keeper ends this process then."""
        try:
            self._channel.send(encode(word))
        except OSError:
            pass

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._channel.fileno()


def encode(word: Word) -> bytes:
    """Return a word as a packet."""
    match word:
        case Changed(name, epoch, closed):
            return _CHANGE.pack(b"C" if closed else b"O", epoch) + name.encode()
        case Ready():
            return b"R"
        case Loaded():
            return b"L"
        case Failed():
            return b"F" + json.dumps(dataclasses.asdict(word)).encode()


def plain(data: bytes) -> Any:
    """Return what JSON says, if every text of it is one that can be passed on; else ValueError."""
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def decode(packet: bytes) -> Word:
    """Return the word in a packet; ValueError when it is none: user code shares the worker's descriptors."""
    kind = packet[:1]
    if kind in (b"O", b"C") and _CHANGE.size < len(packet) <= _CHANGE.size + MAX_SESSION_NAME:
        _, epoch = _CHANGE.unpack_from(packet)
        return Changed(packet[_CHANGE.size :].decode(), epoch, kind == b"C")
    if packet == b"R":
        return Ready()
    if packet == b"L":
        return Loaded()
    fields = plain(packet[1:]) if kind == b"F" else None
    known = {field.name for field in dataclasses.fields(Failed)}
    if not isinstance(fields, dict) or fields.keys() != known or not all(isinstance(x, str) for x in fields.values()):
        raise ValueError(f"no word of a worker: {packet[:32]!r}")
    return Failed(**fields)


class Page:
    """Since when each running call runs, and for which epoch. One process writes, one reads.

    Entry i is that of the handler's thread i: start in ns of the monotonic clock, 0 when nothing runs, and epoch.
    Each is written and read as one aligned word; both ends are on one machine, so that byte order is no question.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        # Even numbers hold starts, odd ones epochs. The hot path of the worker writes here itself.
        self.words = memoryview(self._map).cast("Q")

    def begin(self, slot: int, start_ns: int, epoch: int) -> None:
        """Say that a handler runs in this slot."""
        self.words[2 * slot + 1] = epoch
        self.words[2 * slot] = start_ns

    def end(self, slot: int) -> None:
        """Say that no handler runs in this slot."""
        self.words[2 * slot] = 0

    def read(self) -> list[tuple[int, int]]:
        """Return (start_ns, epoch) of every handler that runs, the longest-running first."""
        words = self.words
        return sorted((words[i], words[i + 1]) for i in range(0, PAGE_BYTES // 8, 2) if words[i])

    def close(self) -> None:
        """Unmap the page."""
        self.words.release()
        self._map.close()
