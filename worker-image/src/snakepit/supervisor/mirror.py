"""What a router that starts again must know: which worker holds which life, and which lives were lost."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Final

from snakepit.bridge import messages
from snakepit.supervisor.workers import WorkerProcess

# As many as a router keeps, and for as long as it tells any.
MAX_LOSSES: Final = 65_536
_MAX_AGE_SECONDS: Final = 86_400.0
# Of sessions and losses in one frame, which holds 327,680 bytes; the rest is for 256 workers and the adapter.
PART_BYTES: Final = 200_000
# What an entry takes besides its texts, at most.
_ENTRY_BYTES: Final = 64


@dataclasses.dataclass(slots=True)
class _Loss:
    name: str
    epoch: int
    slot: int
    nonce: int
    cause: str
    at: float
    begun_again: bool = False

    def fields(self, now: float) -> dict[str, Any]:
        """The fields of the LostLife message."""
        return {
            "session": {"name": self.name, "epoch": self.epoch},
            "incarnation": {"slot": self.slot, "nonce": self.nonce},
            "cause": self.cause,
            "age_ms": max(0, int((now - self.at) * 1000)),
            "begun_again": self.begun_again,
        }


class Losses:
    """Lives that ended without their callers' wish, oldest first: 65,536 at most, and none for more than a day."""

    def __init__(self) -> None:
        self._by_epoch: collections.OrderedDict[int, _Loss] = collections.OrderedDict()
        # The last loss of each name that has not lived since.
        self._open: dict[str, _Loss] = {}

    def __iter__(self) -> Iterator[_Loss]:
        return iter(list(self._by_epoch.values()))

    def told(self, life: Any, now: float) -> None:
        """Keep a LostLife of the router, whose word on the cause counts."""
        where = life.incarnation
        self._keep(_Loss(life.session.name, life.session.epoch, where.slot, where.nonce, life.cause[:64], now))

    def ended(self, worker: WorkerProcess, cause: str, now: float) -> None:
        """Keep what a worker held when it ended: there may be no router that tells it."""
        for epoch, name in worker.sessions.items():
            self._keep(_Loss(name, epoch, worker.job.slot, worker.job.nonce, cause, now))
        worker.sessions.clear()

    def began(self, name: str) -> None:
        """Note that a name lives again: its loss was acknowledged."""
        loss = self._open.pop(name, None)
        if loss is not None:
            loss.begun_again = True

    def _keep(self, loss: _Loss) -> None:
        known = self._by_epoch.get(loss.epoch)
        if known is not None:
            known.cause = loss.cause
            return
        self.began(loss.name)
        self._by_epoch[loss.epoch] = self._open[loss.name] = loss
        while self._too_many(loss.at):
            _, oldest = self._by_epoch.popitem(last=False)
            if self._open.get(oldest.name) is oldest:
                del self._open[oldest.name]

    def _too_many(self, now: float) -> bool:
        oldest = next(iter(self._by_epoch.values()))
        return len(self._by_epoch) > MAX_LOSSES or now - oldest.at > _MAX_AGE_SECONDS


def parts(workers: Iterable[WorkerProcess], losses: Losses, now: float, **more: Any) -> Iterator[Any]:
    """Yield SupervisorState messages that fit in a frame each; the first lists every worker, and has `more`.

    Time may pass between two of them, and what changes meanwhile is told beside them: what has ended is left out.
    """
    workers = list(workers)
    state = messages.SupervisorState(workers=[worker.state() for worker in workers], **more)
    entries = dict(zip(workers, state.workers, strict=True))
    room = PART_BYTES
    for worker, (epoch, name) in [(each, life) for each in workers for life in each.sessions.items()]:
        size = len(name.encode()) + _ENTRY_BYTES
        if size > room:
            state.continued = True
            yield state
            state, entries, room = messages.SupervisorState(), {}, PART_BYTES
        room -= size
        if epoch in worker.sessions:
            if worker not in entries:
                entries[worker] = state.workers.add(incarnation=worker.incarnation)
            entries[worker].sessions.add(name=name, epoch=epoch)
    for loss in losses:
        size = len(loss.name.encode()) + len(loss.cause) + _ENTRY_BYTES
        if size > room:
            state.continued = True
            yield state
            state, room = messages.SupervisorState(), PART_BYTES
        room -= size
        state.lost.add(**loss.fields(now))
    yield state
