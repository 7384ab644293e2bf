"""Which slots the supervisor starts and ends, and when: the rules of docs/bridge.md without processes or clocks."""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

# A worker that was ready for so long begins a new series of deaths when it dies.
STEADY_SECONDS: Final = 10.0
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
# Workers that may be starting at a time when the router names no size of a batch.
OWN_BOUND: Final = 32


def pause_before(failures: int, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> float:
    """Return the pause before the next try after so many failures in a row: none, `first`, doubling to `longest`."""
    if failures <= 0:
        return 0.0
    # 2 to the 32nd milliseconds are 49 days: more doubling would change nothing.
    doubled: float = first * 2.0 ** min(failures - 1, 32)
    return min(doubled, longest)


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the router desires, in seconds; the last one counts."""

    slots: frozenset[int] = frozenset()
    startup: float = 60.0
    grace: float = 10.0
    # Workers of a batch, 0 for no batches, and the pause between two batches.
    batch: int = 0
    batch_interval: float = 0.0
    backoff: float = FIRST_PAUSE
    longest_backoff: float = LONGEST_PAUSE


class Phase(enum.Enum):
    """Where the worker of a slot stands."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    KILLED = "killed"


@dataclasses.dataclass
class Life:
    """One worker in a slot, from its start until all of it is gone."""

    phase: Phase
    started: float
    # When it must have become ready, or have stopped.
    limit: float
    ready_at: float | None = None
    cause: str = ""


@dataclasses.dataclass
class Slot:
    """A place for a worker. `deaths` counts all, `streak` those since the slot was last steady."""

    life: Life | None = None
    deaths: int = 0
    streak: int = 0
    not_before: float = 0.0


@dataclasses.dataclass(frozen=True)
class Start:
    """Start a worker in this slot."""

    slot: int


@dataclasses.dataclass(frozen=True)
class Terminate:
    """Send SIGTERM to the slot's worker."""

    slot: int


@dataclasses.dataclass(frozen=True)
class Kill:
    """Send SIGKILL to the slot's worker, its stacks written to the log before if `stacks` says so."""

    slot: int
    cause: str
    stacks: bool = False


Action = Start | Terminate | Kill


class Supervision:
    """Level-triggered: `plan(now)` compares what is wanted with what runs, and returns what to do about it."""

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self._wish = Wish()
        # How many the current batch may still start, and when the next one may begin if nothing is starting.
        self._batch_left = 0
        self._next_batch = 0.0
        # None as long as workers cannot be started; else how many may be starting at once.
        self.may_start: int | None = None
        self._draining = False
        self._end_all_at: float | None = None
        self._dead_at: float | None = None

    def desire(self, wish: Wish) -> None:
        """Take the whole wish of the router; the last one counts."""
        self._wish = wish

    @property
    def wanted(self) -> frozenset[int]:
        """The slots that shall hold a worker."""
        return self._wish.slots

    def drain(self, now: float, seconds: float) -> None:
        """Begin to end: nothing is started or replaced any more, and at the deadline less a margin all is ended."""
        if self._draining:
            return
        self._draining = True
        self._dead_at = now + seconds
        self._end_all_at = now + seconds - min(10.0, seconds / 4)

    def end_all(self, now: float) -> None:
        """End the workers now: nobody drains them."""
        if self._end_all_at is None or self._end_all_at > now:
            self._end_all_at = now

    def ready(self, slot: int, now: float) -> None:
        """Take note that the slot's worker has run its setup."""
        life = self.slots[slot].life
        if life is not None and life.phase is Phase.STARTING:
            life.phase = Phase.READY
            life.ready_at = now
            self._one_start_ended(now)

    def kill(self, slot: int, cause: str, stacks: bool = False) -> list[Action]:
        """Kill the slot's worker for a cause; nothing when it is killed already."""
        entry = self.slots.get(slot)
        if entry is None or entry.life is None or entry.life.phase is Phase.KILLED:
            return []
        entry.life.phase = Phase.KILLED
        entry.life.cause = cause
        return [Kill(slot, cause, stacks)]

    def gone(self, slot: int, now: float) -> Life:
        """Take note that the slot's worker, and all it had started, is gone; return its life."""
        entry = self.slots[slot]
        life = entry.life
        assert life is not None
        entry.life = None
        if life.ready_at is None:
            self._one_start_ended(now)
        if slot not in self.wanted or life.phase is Phase.STOPPING or self._draining:
            entry.streak = 0
            entry.not_before = now
            return life
        entry.deaths += 1
        if life.ready_at is not None and now - life.ready_at >= STEADY_SECONDS:
            entry.streak = 0
        entry.not_before = now + pause_before(entry.streak, self._wish.backoff, self._wish.longest_backoff)
        entry.streak += 1
        return life

    def plan(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        actions: list[Action] = []
        ending = self._end_all_at is not None and now >= self._end_all_at
        for number in sorted(self.slots):
            life = self.slots[number].life
            if life is None or life.phase is Phase.KILLED:
                continue
            if life.phase is Phase.STOPPING:
                if now >= life.limit:
                    actions += self.kill(number, "STOPPED")
            elif ending or number not in self.wanted:
                life.phase, life.cause, life.limit = Phase.STOPPING, "STOPPED", self._stop_limit(now)
                actions.append(Terminate(number))
            elif life.phase is Phase.STARTING and now >= life.limit:
                actions += self.kill(number, "STARTUP_TIMEOUT")
        if not self._draining:
            actions += self._starts(now)
        return actions

    def _starting(self) -> int:
        # One that was killed while it started still counts: what its death says is not known before it is gone.
        return sum(1 for slot in self.slots.values() if slot.life is not None and slot.life.ready_at is None)

    def _one_start_ended(self, now: float) -> None:
        if self._starting() == 0:
            self._next_batch = now + self._wish.batch_interval

    def _batched(self) -> bool:
        return self._wish.batch > 0 and self._wish.batch_interval > 0

    def _room(self, now: float) -> int:
        """Return how many may be started now. A batch that is not full takes more, such as a replacement, at once."""
        if self.may_start is None or self._draining:
            return 0
        starting = self._starting()
        room = min(self.may_start, self._wish.batch or OWN_BOUND) - starting
        if self._batched():
            if starting == 0 and now >= self._next_batch:
                self._batch_left = self._wish.batch
            room = min(room, self._batch_left)
        return max(0, room)

    def _starts(self, now: float) -> list[Action]:
        room = self._room(now)
        actions: list[Action] = []
        for number in sorted(self.wanted) if room else ():
            if room <= 0:
                break
            slot = self.slots.setdefault(number, Slot())
            if slot.life is None and now >= slot.not_before:
                slot.life = Life(Phase.STARTING, now, now + self._wish.startup)
                actions.append(Start(number))
                room -= 1
                self._batch_left = max(0, self._batch_left - 1)
        return actions

    def _stop_limit(self, now: float) -> float:
        limit = now + self._wish.grace
        if self._dead_at is not None:
            # Leave a second to kill and to report.
            limit = min(limit, max(now, self._dead_at - 1.0))
        return limit

    def next_wakeup(self, now: float) -> float | None:
        """Return when `plan`, which was asked at `now`, must be asked again though nothing happens."""
        times = [] if self._end_all_at is None or self._end_all_at <= now else [self._end_all_at]
        for slot in self.slots.values():
            if slot.life is not None and slot.life.phase in (Phase.STARTING, Phase.STOPPING):
                times.append(slot.life.limit)
        if self._room(now):
            times += self._waiting()
        elif self.may_start and not self._draining and self._starting() == 0:
            times += [max(when, self._next_batch) for when in self._waiting()]
        return min(times, default=None)

    def _waiting(self) -> list[float]:
        """Return when each wanted slot without a worker may get one, as far as its own deaths go."""
        empty = Slot()
        slots = [self.slots.get(number, empty) for number in self.wanted]
        return [slot.not_before for slot in slots if slot.life is None]

    def empty(self) -> bool:
        """Whether no slot holds a worker."""
        return all(slot.life is None for slot in self.slots.values())
