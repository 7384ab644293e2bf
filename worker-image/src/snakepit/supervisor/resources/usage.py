"""What workers use: CPU time of each and all that it started, and the memory that nobody else has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from snakepit.supervisor.workers import WorkerProcess

_TICK_US: Final = 1_000_000 // os.sysconf("SC_CLK_TCK")
# Time for reading memory at a stretch: beyond, the rest waits for the next round, so that a death waits no longer.
_STRETCH_SECONDS: Final = 0.01
# Memory is read anew only when this many times the time that the last reading took has passed: 2 % of a CPU at most.
# (Half a millisecond a worker with 25 MiB of small pages; more with more.)
_MEMORY_REST: Final = 50.0
_PROC: Final = Path("/proc")


class Processes:
    """One look at every process: its parent and its CPU time, those it has reaped included."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = str(proc)
        self._children: dict[int, list[int]] = {}
        self._own_us: dict[int, int] = {}
        self._reaped_us: dict[int, int] = {}
        for name in os.listdir(proc):
            if name.isdigit():
                self._look(name)

    def _look(self, name: str) -> None:
        try:
            with open(f"{self._proc}/{name}/stat", "rb", buffering=0) as stat:
                words = stat.read(1024).rpartition(b")")[2].split()
            pid, parent = int(name), int(words[1])
            own, reaped = int(words[11]) + int(words[12]), int(words[13]) + int(words[14])
        except (OSError, ValueError, IndexError):
            # It has ended meanwhile.
            return
        self._children.setdefault(parent, []).append(pid)
        self._own_us[pid], self._reaped_us[pid] = own * _TICK_US, reaped * _TICK_US

    def below(self, keeper: int) -> list[int]:
        """Return the worker of a keeper and all that it started."""
        found: list[int] = []
        todo = list(self._children.get(keeper, ()))
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += self._children.get(pid, ())
        return found

    def cpu_us(self, keeper: int) -> int:
        """Return the CPU time of the worker of a keeper and of all that it started, dead or alive."""
        return self._reaped_us.get(keeper, 0) + sum(
            self._own_us[pid] + self._reaped_us[pid] for pid in self.below(keeper)
        )


def private_bytes(pids: Iterable[int], proc: Path = _PROC) -> int:
    """Return the memory that each of some processes shares with no other."""
    total = 0
    for pid in pids:
        try:
            with open(proc / str(pid) / "smaps_rollup", "rb", buffering=0) as rollup:
                lines = rollup.read(8192).splitlines()
        except OSError:
            # It has ended meanwhile.
            continue
        for line in lines:
            if line.startswith((b"Private_Clean:", b"Private_Dirty:", b"Private_Hugetlb:")):
                total += int(line.split()[1]) << 10
    return total


class Meter:
    """Measures every worker once an interval, and gives what is to be told.

    Reading the memory of 256 workers takes longer than a death may wait: it is done in stretches, a few a turn of the
    loop, and told when all are read.
    """

    def __init__(self) -> None:
        # 0 for never.
        self._interval = 0.0
        self._memory = False
        self._due = 0.0
        self._cpu: dict[int, int] = {}
        # By nonce, as last read; all are read anew in a round that begins after _memory_due.
        self._private: dict[int, int] = {}
        self._memory_due = 0.0
        self._memory_spent = 0.0
        self._anew = False
        self._left: list[WorkerProcess] = []
        self._processes: Processes | None = None
        self._found: list[dict[str, Any]] = []

    def desire(self, interval: float, memory: bool, now: float) -> None:
        """Take what the router wants: an interval in seconds, 0 for nothing at all, and whether memory is measured."""
        if interval != self._interval:
            self._due = now + interval
        self._interval, self._memory = interval, memory
        if not interval:
            self._left, self._processes, self._found = [], None, []

    def next_wakeup(self) -> float | None:
        """Return when `tick` must be called though nothing happens."""
        if not self._interval:
            return None
        return 0.0 if self._processes is not None else self._due

    def tick(self, workers: Iterable[WorkerProcess], now: float) -> list[dict[str, Any]] | None:
        """Measure when it is time; return the fields of WorkerUsage messages once all are measured."""
        if not self._interval or (self._processes is None and now < self._due):
            return None
        if self._processes is None:
            self._due = now + self._interval
            self._processes, self._found = Processes(), []
            self._left = [worker for worker in workers if worker.worker_pid and worker.status is None]
            nonces = {worker.job.nonce for worker in self._left}
            self._cpu = {nonce: spent for nonce, spent in self._cpu.items() if nonce in nonces}
            self._private = {nonce: size for nonce, size in self._private.items() if nonce in nonces}
            self._anew, self._memory_spent = now >= self._memory_due, 0.0
        until = time.monotonic() + _STRETCH_SECONDS
        while self._left:
            if time.monotonic() > until:
                return None
            self._found.append(self._measure(self._left.pop(), self._processes))
        if self._anew:
            self._memory_due = now + self._memory_spent * _MEMORY_REST
        found, self._processes, self._found = self._found, None, []
        return found

    def _measure(self, worker: WorkerProcess, processes: Processes) -> dict[str, Any]:
        nonce = worker.job.nonce
        # A process that nobody waited for takes its time with it; what was told never shrinks.
        spent = self._cpu[nonce] = max(self._cpu.get(nonce, 0), processes.cpu_us(worker.keeper_pid))
        if self._memory and (self._anew or nonce not in self._private):
            begin = time.monotonic()
            self._private[nonce] = private_bytes(processes.below(worker.keeper_pid))
            self._memory_spent += time.monotonic() - begin
        memory = self._private.get(nonce, 0) if self._memory else 0
        return {"incarnation": worker.incarnation, "cpu_us": spent, "private_bytes": memory}
