"""Ends the largest worker before the kernel ends the whole container, and knows whom the kernel ended after all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from snakepit import logs
from snakepit.supervisor.resources.cgroup import Memory
from snakepit.supervisor.resources.usage import Processes, private_bytes
from snakepit.supervisor.workers import WorkerProcess

CHECK_SECONDS: Final = 0.2
_LIMIT_FRACTION: Final = 0.95
# A kill by the kernel explains a death that becomes known within this time.
_EXPLAINS_SECONDS: Final = 5.0
# Looks in a row that wait for a worker that ends already.
_MAX_WAITS: Final = 5


def sizes(workers: Iterable[WorkerProcess]) -> dict[int, int]:
    """Return the private memory of each slot's worker and of all that it started, in bytes."""
    processes = Processes()
    return {
        worker.job.slot: private_bytes(processes.below(worker.keeper_pid))
        for worker in workers
        if worker.worker_pid and worker.status is None
    }


class MemoryGuard:
    """`tick` names the slot to kill. `memory` is None where no cgroup tells its memory: then nothing is guarded."""

    def __init__(self, memory: Memory | None) -> None:
        self._memory = memory
        self._bound = 0
        if memory is not None and memory.limit is not None:
            self._bound = int(memory.limit * _LIMIT_FRACTION)
        self._due = 0.0
        # The slot and nonce of the worker that was killed last, which frees its memory only when it is gone.
        self._killed: tuple[int, int] | None = None
        self._waited = 0
        self._kills = memory.kills() if memory is not None else 0
        self._unexplained: deque[float] = deque(maxlen=256)

    def next_wakeup(self) -> float | None:
        """Return when `tick` must be called though nothing happens."""
        return self._due if self._bound else None

    def tick(self, workers: dict[int, WorkerProcess], now: float) -> int | None:
        """Look when it is time; return the slot whose worker must be killed now."""
        if not self._bound or now < self._due or self._memory is None:
            return None
        self._due = now + CHECK_SECONDS
        self._count(now)
        used = self._memory.used(above=self._bound)
        if used <= self._bound:
            return None
        if self._killed is not None:
            slot, nonce = self._killed
            if slot in workers and workers[slot].job.nonce == nonce:
                return None
        measured = sizes(workers.values())
        # One without memory is about to end, perhaps by the kernel's hand: what it frees may suffice, and the largest
        # of the others has done no wrong.
        ending = 0 in measured.values() and self._waited < _MAX_WAITS
        if not measured or ending or self._memory.used(above=self._bound) <= self._bound:
            self._waited += 1
            return None
        self._waited = 0
        slot = max(measured, key=lambda number: measured[number])
        self._killed = (slot, workers[slot].job.nonce)
        logs.write(
            "supervisor", "the container's memory is nearly used up; its largest worker is killed",
            slot=slot, private_bytes=measured[slot], used_bytes=used, limit_bytes=self._memory.limit,
        )  # fmt: skip
        return slot

    def _count(self, now: float) -> None:
        if self._memory is None:
            return
        kills = self._memory.kills()
        self._unexplained.extend([now] * min(max(0, kills - self._kills), 256))
        self._kills = kills
        while self._unexplained and now - self._unexplained[0] > _EXPLAINS_SECONDS:
            self._unexplained.popleft()

    def explains(self, now: float | None = None) -> bool:
        """Whether a SIGKILL that nobody here sent was the kernel's, for want of memory; each explains one death."""
        self._count(time.monotonic() if now is None else now)
        if not self._unexplained:
            return False
        self._unexplained.popleft()
        return True
