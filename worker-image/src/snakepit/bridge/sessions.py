"""The worker's table of sessions: which lives it holds, and the floor below which none may begin (docs/bridge.md)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

S = TypeVar("S")

# Names whose floor is kept by itself. The floors of older ones melt into one: epochs only ever rise in a router.
MAX_FLOORS: Final = 65_536
# Calls of a life whose outcome is kept, and the largest answer that is.
MAX_OUTCOMES: Final = 64
MAX_OUTCOME_BYTES: Final = 64 << 10


class SessionTable(Generic[S]):
    """Lives by epoch. A life begins at most once, and never at or below an epoch that its name has seen."""

    def __init__(self, max_floors: int = MAX_FLOORS) -> None:
        self._max_floors = max_floors
        self._floors: OrderedDict[str, int] = OrderedDict()
        self._common_floor = 0
        self._held: dict[int, S] = {}
        self._failed: dict[int, bytes] = {}
        self.find = self._held.get

    def begin(self, name: str, epoch: int) -> bool:
        """Say whether this life may begin; from here on no life of the name with this epoch or a lower one may."""
        floor = max(self._floors.get(name, 0), self._common_floor)
        if epoch <= floor:
            return False
        self._floors[name] = epoch
        self._floors.move_to_end(name)
        if len(self._floors) > self._max_floors:
            _, oldest = self._floors.popitem(last=False)
            self._common_floor = max(self._common_floor, oldest)
        return True

    def hold(self, epoch: int, session: S) -> None:
        """Keep a life whose session_start has run."""
        self._held[epoch] = session

    def fail(self, epoch: int, why: bytes) -> None:
        """Remember that session_start of this life raised, so that its calls can be told."""
        if len(self._failed) >= self._max_floors:
            self._failed.pop(next(iter(self._failed)))
        self._failed[epoch] = why

    def failure(self, epoch: int) -> bytes | None:
        """Return why this life could not begin, if that is so."""
        return self._failed.get(epoch)

    def drop(self, epoch: int) -> S | None:
        """Forget a life; return what was held of it."""
        self._failed.pop(epoch, None)
        return self._held.pop(epoch, None)

    def epochs(self) -> list[int]:
        """Return the epochs of all lives that are held."""
        return list(self._held)


class Outcome:
    """What a call was answered: its messages, its metadata, and how it ended."""

    __slots__ = ("_bytes", "ext", "finish", "headers", "kept", "messages")

    def __init__(self) -> None:
        # Extension of its Headers frame, None when it sent none.
        self.headers: bytes | None = None
        self.messages: list[bytes] = []
        # Code of its Finish, None until it ended, and the extension.
        self.finish: int | None = None
        self.ext = b""
        # False as soon as it is too large, or what was answered is not what the caller shall get again.
        self.kept = True
        self._bytes = 0

    def add(self, message: bytes) -> None:
        """Take note of a message of the answer."""
        if self._fits(len(message)):
            self.messages.append(message)

    def head(self, ext: bytes) -> None:
        """Take note of the metadata before the first message."""
        if self._fits(len(ext)):
            self.headers = ext

    def end(self, code: int, ext: bytes) -> None:
        """Take note of the end."""
        if self._fits(len(ext)):
            self.finish, self.ext = code, ext

    def forget(self) -> None:
        """Keep only that the call ran."""
        self.kept = False
        self.messages.clear()
        self.headers, self.ext = None, b""

    @property
    def complete(self) -> bool:
        """Whether a repeat can be given all of it."""
        return self.kept and self.finish is not None

    def _fits(self, size: int) -> bool:
        self._bytes += size
        if self._bytes > MAX_OUTCOME_BYTES:
            self.forget()
        return self.kept


class Outcomes:
    """The last calls of one life whose request id the caller chose: each of them runs once."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Outcome] = OrderedDict()

    def begin(self, request_id: str) -> tuple[Outcome, bool]:
        """Return the outcome of this id, and whether it is a new one, to be filled by the call that runs now."""
        known = self._known.get(request_id)
        if known is not None:
            return known, False
        outcome = self._known[request_id] = Outcome()
        if len(self._known) > MAX_OUTCOMES:
            self._known.popitem(last=False)
        return outcome, True
