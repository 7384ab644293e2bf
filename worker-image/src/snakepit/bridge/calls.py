"""The worker's side of calls on one pair of connections: cancels that overtake, credit, pieces of a request."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from snakepit.bridge.protocol import FLAG_END_MESSAGE, FLAG_END_STREAM, FLAG_MESSAGE, MAX_PAYLOAD, ProtocolError

MAX_REMEMBERED_CANCELS: Final = 1024


class CallTable:
    """Which call runs, and which cancels came before their call. A call begins once and ends once."""

    def __init__(self) -> None:
        self.running = 0
        self._highest = 0
        self._early: OrderedDict[int, int] = OrderedDict()

    def begin(self, id: int) -> bool:
        """Begin a call; False when a Cancel has overtaken it, and it must be refused."""
        if id <= self._highest:
            raise ProtocolError("id_reused", f"call id {id} is not above {self._highest}")
        if self.running:
            raise ProtocolError("call_running", f"call {id} began while {self.running} runs")
        self._highest = id
        if self._early:
            cause = self._early.pop(id, None)
            # A Call is never overtaken by a later one, so what is older can no longer come.
            for early in [known for known in self._early if known < id]:
                del self._early[early]
            if cause is not None:
                return False
        self.running = id
        return True

    def cancel(self, id: int, cause: int) -> bool:
        """Take note of a Cancel; True when its call runs now."""
        if id == self.running:
            return True
        if id > self._highest:
            self._early[id] = cause
            if len(self._early) > MAX_REMEMBERED_CANCELS:
                self._early.popitem(last=False)
        return False

    def end(self, id: int) -> None:
        """End a call that began."""
        if id != self.running:
            raise ProtocolError("not_running", f"call {id} ended, but {self.running or 'none'} runs")
        self.running = 0


class Credit:
    """Bytes that may be sent for one call in one direction. One thread takes, another gives, without a lock."""

    __slots__ = ("_given", "_taken")

    def __init__(self, initial: int) -> None:
        self._given = initial
        self._taken = 0

    def take(self, wanted: int) -> int:
        """Use up at most `wanted` bytes, and at most what one frame carries; return how many may be sent now."""
        granted = self._given - self._taken
        granted = min(granted, wanted, MAX_PAYLOAD)
        self._taken += granted
        return granted

    def give(self, count: int) -> None:
        """Add what a Window frame brought."""
        self._given += count


class Request:
    """The one message of a call's request, put together from its pieces."""

    def __init__(self, window: int, max_bytes: int) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._window = window
        self._max_bytes = max_bytes
        self._unreturned = 0
        self.complete = False

    def add(self, flags: int, payload: bytes) -> int:
        """Add a piece; return the credit to give back now, 0 for none yet."""
        if flags & FLAG_MESSAGE:
            if self.complete:
                raise ProtocolError("second_message", "a request carries one message")
            self._pieces.append(payload)
            self._size += len(payload)
            self.complete = bool(flags & FLAG_END_MESSAGE)
        if flags & FLAG_END_STREAM:
            self.complete = True
        self._unreturned += len(payload)
        if self.complete or self._unreturned * 2 < self._window:
            return 0
        credit, self._unreturned = self._unreturned, 0
        return credit

    @property
    def too_large(self) -> bool:
        """Whether the message is above max_message_bytes already."""
        return self._size > self._max_bytes

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return self._size

    def message(self) -> bytes:
        """Return the whole message."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
