"""The worker's side of calls on one pair of connections: what overtakes a Call, credit, the messages of a request."""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

from snakepit.bridge.protocol import FLAG_END_MESSAGE, FLAG_END_STREAM, FLAG_MESSAGE, MAX_PAYLOAD, ProtocolError

C = TypeVar("C")

# Cancels and recalls that are remembered, each.
MAX_REMEMBERED: Final = 1024
# Whole messages of one request that wait for their handler. Empty ones use no credit.
MAX_WAITING_MESSAGES: Final = 65_536


class Verdict(enum.Enum):
    """What became of a Call when it was about to begin."""

    BEGUN = 1
    # A Cancel had overtaken it: it is refused.
    CANCELLED = 2
    # It was promised never to run: it is dropped in silence.
    RECALLED = 3


class CallTable(Generic[C]):
    """Which calls run, and what came before their Call. A call begins at most once, and a recalled one never.

    The owner holds one lock around `see`, `begin`, `cancel` and `recall`.
    """

    def __init__(self) -> None:
        self.running: dict[int, C] = {}
        self._highest = 0
        # Seen, but waiting for earlier calls of their sessions.
        self._waiting: set[int] = set()
        self._cancelled: OrderedDict[int, None] = OrderedDict()
        self._recalled: set[int] = set()

    def see(self, id: int) -> None:
        """Take note of a Call that begins later."""
        self._rise(id)
        self._waiting.add(id)

    def begin(self, id: int, call: C) -> Verdict:
        """Decide whether a call begins; only if it does, it runs from here until `end`."""
        if self._waiting and id in self._waiting:
            self._waiting.discard(id)
        else:
            self._rise(id)
        if self._recalled or self._cancelled:
            verdict = self._verdict(id)
            if verdict is not Verdict.BEGUN:
                return verdict
        self.running[id] = call
        return Verdict.BEGUN

    def cancel(self, id: int) -> C | None:
        """Take note of a Cancel; return the call if it runs now."""
        running = self.running.get(id)
        if running is None and self._to_come(id):
            self._cancelled[id] = None
            if len(self._cancelled) > MAX_REMEMBERED:
                self._cancelled.popitem(last=False)
        return running

    def recall(self, id: int) -> bool:
        """Promise that a call will never run; False when it has begun, was promised, or too many are."""
        if not self._to_come(id) or id in self._recalled or len(self._recalled) >= MAX_REMEMBERED:
            return False
        self._recalled.add(id)
        return True

    def end(self, id: int) -> None:
        """End a call that began."""
        if self.running.pop(id, None) is None:
            raise ProtocolError("not_running", f"call {id} ended, but it does not run")

    def _rise(self, id: int) -> None:
        if id <= self._highest:
            raise ProtocolError("id_reused", f"call id {id} is not above {self._highest}")
        self._highest = id

    def _to_come(self, id: int) -> bool:
        return id > self._highest or id in self._waiting

    def _verdict(self, id: int) -> Verdict:
        cancelled = self._cancelled.pop(id, id) is None
        recalled = id in self._recalled
        # A Call is never overtaken by a later one: what is older and does not wait can no longer come.
        for early in [known for known in self._cancelled if not self._to_come(known)]:
            del self._cancelled[early]
        self._recalled = {known for known in self._recalled if self._to_come(known)}
        if recalled:
            return Verdict.RECALLED
        return Verdict.CANCELLED if cancelled else Verdict.BEGUN


class Credit:
    """Bytes that may be sent for one call in one direction. Its owner guards it."""

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

    def take_all(self, wanted: int) -> bool:
        """Use up `wanted` bytes, or nothing when there are not as many, or one frame does not carry them."""
        if wanted > min(self._given - self._taken, MAX_PAYLOAD):
            return False
        self._taken += wanted
        return True

    def give(self, count: int) -> None:
        """Add what a Window frame brought."""
        self._given += count


class Request:
    """The messages of one call's request, put together from their pieces.

    Bytes are given back as credit when they are handed on; those of a message that the handler waits for, when they
    arrive. So at most one message and one window of bytes are held.
    """

    def __init__(self, window: int, max_bytes: int) -> None:
        self._window = window
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        # Whole messages, each with the bytes of it that have not been made ready to give back.
        self._messages: deque[tuple[bytes, int]] = deque()
        # Bytes of the message under way, and those of them that have not been made ready to give back.
        self.size = 0
        self._kept = 0
        self._ready = 0
        self._outstanding = 0
        # No further message comes.
        self.ended = False
        # The message under way is above max_message_bytes.
        self.too_large = False

    def add(self, flags: int, payload: bytes) -> None:
        """Add a piece."""
        if self.ended:
            raise ProtocolError("request_ended", "a piece came after the end of its request")
        if flags & FLAG_MESSAGE:
            self._add_piece(payload, bool(flags & FLAG_END_MESSAGE))
        elif payload:
            raise ProtocolError("no_message", "a payload came without the flag MESSAGE")
        if flags & FLAG_END_STREAM:
            if self._pieces:
                raise ProtocolError("message_cut", "a request ended within a message")
            self.ended = True

    def _add_piece(self, payload: bytes, last: bool) -> None:
        size = len(payload)
        self._outstanding += size
        if self._outstanding > self._window:
            raise ProtocolError("beyond_credit", f"a request has {self._outstanding} bytes above its credit")
        self.size += size
        self.too_large = self.too_large or self.size > self._max_bytes
        if self.too_large:
            # Nobody will read it: the call fails, and what is held of it is let go.
            self._pieces.clear()
            self._messages.clear()
            self.ended = self.ended or last
            return
        if self._messages:
            self._kept += size
        else:
            self._ready += size
        self._pieces.append(payload)
        if last:
            whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._messages.append((whole, self._kept))
            if len(self._messages) > MAX_WAITING_MESSAGES:
                raise ProtocolError("too_many_messages", f"{len(self._messages)} messages wait for their handler")
            self._pieces.clear()
            self.size = self._kept = 0

    def take(self) -> bytes | None:
        """Return the next whole message; None when none is whole yet, or at the end."""
        if not self._messages:
            return None
        message, kept = self._messages.popleft()
        self._ready += kept
        if not self._messages:
            # The handler waits for the one under way from here on.
            self._ready += self._kept
            self._kept = 0
        return message

    @property
    def whole(self) -> bool:
        """Whether `take` has something to say: a message, the end, or one that is too large."""
        return bool(self._messages) or self.ended or self.too_large

    def credit(self) -> int:
        """Return the credit to give back now; 0 for none yet."""
        ready = self._ready
        if self.ended or not ready or ready * 2 < self._window:
            return 0
        self._ready = 0
        self._outstanding -= ready
        return ready
