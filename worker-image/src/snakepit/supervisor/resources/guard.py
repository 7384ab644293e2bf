"""Ends the largest worker before the kernel ends the whole container, and knows whom the kernel ended after all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from snakepit import logs
from snakepit.supervisor.resources.cgroup import Memory
from snakepit.supervisor.resources.usage import Processes, private_bytes
from snakepit.supervisor.workers import WorkerProcess

CHECK_SECONDS: Final = 0.2
_LIMIT_FRACTION: Final = 0.95
# A kill by the kernel explains a death that becomes known within this time.
_EXPLAINS_SECONDS: Final = 5.0


def largest(workers: Iterable[WorkerProcess], measure: Callable[[list[int]], int] = private_bytes) -> tuple[int, int]:
    """Return the slot of the worker with the largest private memory, and its bytes; (-1, 0) without workers."""
    processes = Processes()
    sizes = [
        (measure(processes.below(worker.keeper_pid)), worker.job.slot)
        for worker in workers
        if worker.worker_pid and worker.status is None
    ]
    size, slot = max(sizes, default=(0, -1))
    return slot, size


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
        slot, size = largest(workers.values())
        if slot < 0:
            return None
        self._killed = (slot, workers[slot].job.nonce)
        logs.write(
            "supervisor", "the container's memory is nearly used up; its largest worker is killed",
            slot=slot, private_bytes=size, used_bytes=used, limit_bytes=self._memory.limit,
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
