"""What the router for tests remembers of its workers: their connections, and the answers to calls."""

from __future__ import annotations

import itertools
import mmap
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from snakepit import messages as rpc
from snakepit import values
from snakepit.bridge import messages
from snakepit.bridge.protocol import FLAG_END_MESSAGE, FLAG_MESSAGE, Decoder, Frame, Kind

DEADLINE = 15.0

# Flags of a message in several frames.
PIECE, LAST = FLAG_MESSAGE, FLAG_MESSAGE | FLAG_END_MESSAGE


def eventually(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Return the first true value of `condition`, or fail."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


class Connection:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = Decoder()
        self.hello: Any = None
        self.ended = False
        self.goodbye: Any = None
        # DATA: what the worker marks, when the router takes marks.
        self.marks: mmap.mmap | None = None
        self.pongs: list[int] = []
        # DATA: the frames of each of its calls.
        self.frames: dict[int, list[Frame]] = {}

    def send(self, frame: Frame) -> None:
        self.sock.sendall(frame.encode())

    def read_hello(self, take_marks: bool) -> Frame | None:
        data, descriptors, _, _ = socket.recv_fds(self.sock, 4096, 1)
        self.decoder.feed(data)
        for descriptor in descriptors:
            if take_marks:
                self.marks = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
            os.close(descriptor)
        return self.read()

    def read(self) -> Frame | None:
        while (frame := self.decoder.next_frame()) is None:
            try:
                with self.decoder.space() as room:
                    count = self.sock.recv_into(room)
            except OSError:
                return None
            if not count:
                return None
            self.decoder.received(count)
        return frame


class Worker:
    """What the router knows of one incarnation."""

    def __init__(self) -> None:
        self.data: Connection | None = None
        self.control: Connection | None = None
        self.ids = itertools.count(1)
        self.frames: dict[int, list[Frame]] = {}
        self.sessions: list[Frame] = []

    @property
    def connected(self) -> bool:
        return all(c is not None and not c.ended for c in (self.data, self.control))

    @property
    def marked(self) -> list[int]:
        """The call that began last in each slot, 0 for none."""
        assert self.data is not None
        assert self.data.marks is not None
        return list(memoryview(self.data.marks).cast("Q"))

    @property
    def pid(self) -> int:
        assert self.data is not None
        return int(self.data.hello.pid)

    @property
    def tools(self) -> list[str]:
        assert self.data is not None
        return [tool.name for tool in self.data.hello.tools]


class Answer:
    """How a call ended."""

    def __init__(self, all_frames: list[Frame]) -> None:
        # Without those of CONTROL, which come in their own time.
        self.frames = frames = [frame for frame in all_frames if frame.kind not in (Kind.WINDOW, Kind.RECALLED)]
        finish = frames[-1]
        self.code, self.outcome = finish.fixed
        self.accepted = frames[0].kind == Kind.ACCEPTED
        self.info = messages.FinishInfo.FromString(finish.ext)
        self.messages: list[bytes] = []
        piece = b""
        for frame in frames:
            if frame.flags & 1:
                piece += frame.payload
                if frame.flags & 2:
                    self.messages.append(piece)
                    piece = b""

    @property
    def result(self) -> Any:
        assert self.code == 0, self.info
        return values.decode(rpc.ExecuteResponse.FromString(self.messages[0]).result)

    @property
    def error(self) -> Any:
        return rpc.ExecuteResponse.FromString(self.messages[-1]).error

    @property
    def items(self) -> list[Any]:
        return [values.decode(m.value) for m in self.stream if m.WhichOneof("outcome") == "value"]

    @property
    def stream(self) -> list[Any]:
        return [rpc.ExecuteStreamResponse.FromString(m) for m in self.messages]


def request(tool: str, arguments: dict[str, Any], json: dict[str, Any] | None = None) -> bytes:
    message = rpc.ExecuteRequest(tool=tool)
    for name, value in arguments.items():
        values.encode_into(value, message.arguments[name], name)
    if json is not None:
        for name, number in json.items():
            if isinstance(number, str):
                message.json.fields[name].string_value = number
            else:
                message.json.fields[name].number_value = number
    payload: bytes = message.SerializeToString()
    return payload


def piece(worker: Worker, id: int, payload: bytes, flags: int) -> None:
    """Send one frame of a call's request."""
    assert worker.data is not None
    worker.data.send(Frame(Kind.MESSAGE, flags, id, payload=payload))
