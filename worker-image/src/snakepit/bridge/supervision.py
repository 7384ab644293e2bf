"""Which slots the supervisor starts and ends, and when: the rules of docs/bridge.md without processes or clocks."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import Final

# A worker that was ready for so long begins a new series of deaths when it dies.
STEADY_SECONDS: Final = 10.0
LONGEST_PAUSE: Final = 30.0


def pause_before(failures: int, first: float = 1.0) -> float:
    """Return the pause before the next try after so many failures in a row: none, 1 s, doubling to 30 s."""
    if failures <= 0:
        return 0.0
    doubled: float = first * 2.0 ** min(failures - 1, 10)
    return min(doubled, LONGEST_PAUSE)


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
    """Send SIGKILL to the slot's worker."""

    slot: int
    cause: str


Action = Start | Terminate | Kill


class Supervision:
    """Level-triggered: `plan(now)` compares what is wanted with what runs, and returns what to do about it."""

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self._wanted: frozenset[int] = frozenset()
        self._startup_seconds = 60.0
        self._grace_seconds = 10.0
        # None as long as workers cannot be started; else how many may be starting at once.
        self.may_start: int | None = None
        self._draining = False
        self._end_all_at: float | None = None
        self._dead_at: float | None = None

    def desire(self, slots: Iterable[int], startup_seconds: float, grace_seconds: float) -> None:
        """Take the whole wish of the router; the last one counts."""
        self._wanted = frozenset(slots)
        self._startup_seconds = startup_seconds
        self._grace_seconds = grace_seconds

    @property
    def wanted(self) -> frozenset[int]:
        """The slots that shall hold a worker."""
        return self._wanted

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

    def kill(self, slot: int, cause: str) -> list[Action]:
        """Kill the slot's worker for a cause."""
        entry = self.slots.get(slot)
        if entry is None or entry.life is None or entry.life.phase is Phase.KILLED:
            return []
        entry.life.phase = Phase.KILLED
        entry.life.cause = cause
        return [Kill(slot, cause)]

    def gone(self, slot: int, now: float) -> Life:
        """Take note that the slot's worker, and all it had started, is gone; return its life."""
        entry = self.slots[slot]
        life = entry.life
        assert life is not None
        entry.life = None
        if slot not in self._wanted or life.phase is Phase.STOPPING or self._draining:
            entry.streak = 0
            entry.not_before = now
            return life
        entry.deaths += 1
        if life.ready_at is not None and now - life.ready_at >= STEADY_SECONDS:
            entry.streak = 0
        entry.not_before = now + pause_before(entry.streak)
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
            elif ending or number not in self._wanted:
                life.phase, life.cause, life.limit = Phase.STOPPING, "STOPPED", self._stop_limit(now)
                actions.append(Terminate(number))
            elif life.phase is Phase.STARTING and now >= life.limit:
                actions += self.kill(number, "STARTUP_TIMEOUT")
        if not self._draining:
            actions += self._starts(now)
        return actions

    def _starts(self, now: float) -> list[Action]:
        if self.may_start is None:
            return []
        # One that was killed while it started still counts: what its death says is not known before it is gone.
        room = self.may_start - sum(
            1 for slot in self.slots.values() if slot.life is not None and slot.life.ready_at is None
        )
        actions: list[Action] = []
        for number in sorted(self._wanted):
            slot = self.slots.setdefault(number, Slot())
            if room <= 0:
                break
            if slot.life is None and now >= slot.not_before:
                slot.life = Life(Phase.STARTING, now, now + self._startup_seconds)
                actions.append(Start(number))
                room -= 1
        return actions

    def _stop_limit(self, now: float) -> float:
        limit = now + self._grace_seconds
        if self._dead_at is not None:
            # Leave a second to kill and to report.
            limit = min(limit, max(now, self._dead_at - 1.0))
        return limit

    def next_wakeup(self) -> float | None:
        """Return when `plan` must be asked again though nothing happens."""
        times = [] if self._end_all_at is None else [self._end_all_at]
        for number, slot in self.slots.items():
            if slot.life is not None:
                if slot.life.phase in (Phase.STARTING, Phase.STOPPING):
                    times.append(slot.life.limit)
            elif number in self._wanted and self.may_start is not None and not self._draining:
                times.append(slot.not_before)
        return min(times, default=None)

    def empty(self) -> bool:
        """Whether no slot holds a worker."""
        return all(slot.life is None for slot in self.slots.values())
