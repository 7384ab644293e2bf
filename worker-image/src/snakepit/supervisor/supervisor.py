"""The supervisor: one loop over the router, the zygote, the keepers and the clock."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import snakepit
from snakepit import logs
from snakepit.bridge import messages, supervision
from snakepit.bridge.protocol import Role, StartMethod
from snakepit.supervisor import launch, mirror
from snakepit.supervisor import options as told
from snakepit.supervisor.adapter import AdapterImport
from snakepit.supervisor.options import Options
from snakepit.supervisor.output import Output
from snakepit.supervisor.resources import cgroup
from snakepit.supervisor.resources.guard import MemoryGuard
from snakepit.supervisor.resources.usage import Meter
from snakepit.supervisor.router import RouterLink
from snakepit.supervisor.watch import Watch, drain
from snakepit.supervisor.workers import WorkerProcess
from snakepit.worker.report import Changed, Failed, Job, Loaded, Ready
from snakepit.zygote import channel, linux

_LONGEST_WAIT: Final = 60.0
_SWEEP_SECONDS: Final = 0.02
_DRAIN_POLL_SECONDS: Final = 0.1
# How long a worker may take to write its stacks, and the silence after which they are complete.
_STACKS_SECONDS: Final = 0.5
_QUIET_SECONDS: Final = 0.1
_MAX_CAUSE: Final = 64


class Supervisor:
    """Keeps the workers that the router desires, until a SIGTERM ends it."""

    def __init__(self, options: Options, wake: int, terminated: Callable[[], bool]) -> None:
        self._options = options
        self._terminated = terminated
        self._watch = Watch()
        self._watch.add(wake, lambda now: drain(wake))
        self._output = Output()
        self._rules = supervision.Supervision()
        self._adapter = AdapterImport(self._watch, self._start_zygote, self._tell_adapter)
        self._router = RouterLink(self._watch, options.bridge, self._hello, self._obey)
        self._workers: dict[int, WorkerProcess] = {}
        self._losses = mirror.Losses()
        # Our children that are not orphans: zygotes, and the keepers of spawned workers.
        self._known: set[int] = set()
        self._drain_until: float | None = None
        self._meter = Meter()
        self._guard = MemoryGuard(cgroup.Memory.find(cgroup.own("memory")))
        self._cpus = cgroup.cpu_limit(cgroup.own("cpu")) or float(len(os.sched_getaffinity(0)))

    def run(self) -> int:
        """Run until drained; return the exit code."""
        if os.getpid() != 1:
            linux.become_subreaper()
        launch.raise_descriptor_limit()
        logs.write("supervisor", "started", adapter=self._options.adapter, bridge=self._options.bridge)
        while True:
            now = time.monotonic()
            if self._terminated() and self._drain_until is None:
                self._begin_drain(now)
            self._router.tick(now)
            if self._orphaned(now) and self._drain_until is None:
                logs.write("supervisor", "no router came back: ending", seconds=self._options.orphan_seconds)
                self._begin_drain(now)
            self._adapter.tick(now)
            self._rules.may_start = self._adapter.may_start()
            for action in self._rules.plan(now):
                self._do(action, now)
            self._measure(now)
            self._reap()
            if self._drain_until is not None:
                self._drain_without_router(now)
                if self._rules.empty():
                    return self._end()
            self._watch.wait(self._timeout(now))
            self._settle(time.monotonic())

    def _orphaned(self, now: float) -> bool:
        """Whether the router is gone for good. In a pod its container is started again, however long that takes."""
        limit, since = self._options.orphan_seconds, self._router.alone_since
        return limit is not None and since is not None and now - since >= limit

    def _timeout(self, now: float) -> float:
        times = [
            self._rules.next_wakeup(now),
            self._adapter.next_wakeup(),
            self._meter.next_wakeup(),
            self._guard.next_wakeup() if self._workers else None,
        ]
        if self._router.sock is None:
            times.append(self._router.dial_at)
        if (
            self._options.orphan_seconds is not None
            and self._router.alone_since is not None
            and self._drain_until is None
        ):
            times.append(self._router.alone_since + self._options.orphan_seconds)
        waits = [_LONGEST_WAIT]
        for worker in self._workers.values():
            times.append(worker.keeper_limit)
            if worker.status is not None:
                # Its start failed: that is told at once.
                waits.append(0.0)
            elif worker.lost or worker.stacks_until is not None:
                waits.append(_SWEEP_SECONDS)
        if self._adapter.retired:
            waits.append(_SWEEP_SECONDS)
        if self._drain_until is not None and not self._router.welcome:
            waits.append(_DRAIN_POLL_SECONDS)
        waits += [when - now for when in times if when is not None]
        return max(0.0, min(waits))

    # What the router is told, and tells.

    def _hello(self) -> Iterator[Any]:
        """Yield the Hello, and what it had no room for."""
        state: dict[str, Any] = {
            "restarts": {number: slot.deaths for number, slot in self._rules.slots.items() if slot.deaths},
        }
        if self._adapter.phase is not None:
            state["adapter"] = self._adapter_state()
        if self._drain_until is not None:
            state["drain"] = {"deadline_ms": self._drain_ms()}
        parts = mirror.parts(self._workers.values(), self._losses, time.monotonic(), **state)
        yield messages.Hello(
            role=int(Role.SUPERVISOR),
            versions=[1, 2],
            incarnation={"pod_uid": self._options.pod_uid},
            pid=os.getpid(),
            sdk_version=snakepit.__version__,
            runtime_version=platform.python_version(),
            supervisor=next(parts),
        )
        for part in parts:
            yield messages.FromSupervisor(more=part)

    def _tell(self, **kind: Any) -> None:
        self._router.send(messages.FromSupervisor(**kind), time.monotonic())

    def _tell_adapter(self) -> None:
        self._tell(adapter=self._adapter_state())

    def _adapter_state(self) -> dict[str, Any]:
        adapter = self._adapter
        error = adapter.error
        return {
            "phase": int(adapter.phase or 0),
            "method": int(adapter.method),
            "error_type": error.type if error else "",
            "error_place": error.place if error else "",
            "error_message": error.message if error else "",
            "fork_unsafe": adapter.fork_unsafe,
        }

    def _drain_ms(self) -> int:
        return max(0, int(((self._drain_until or 0.0) - time.monotonic()) * 1000))

    def _obey(self, order: Any) -> None:
        kind = order.WhichOneof("kind")
        if kind == "desired":
            desired = order.desired
            wish = told.wish(desired)
            self._rules.desire(wish)
            interval = told.seconds(desired.usage_interval_ms, 0.0)
            self._meter.desire(interval, desired.measure_memory, time.monotonic())
            known = desired.method in list(StartMethod)
            self._adapter.desire(StartMethod(desired.method) if known else StartMethod.AUTO, wish.startup)
        elif kind == "kill":
            named = order.kill.incarnation
            worker = self._workers.get(named.slot)
            # An order for an incarnation that has ended must not hit its successor.
            if worker is not None and worker.job.nonce == named.nonce:
                self._kill(named.slot, order.kill.cause[:_MAX_CAUSE] or "KILLED", order.kill.dump_stacks)
        elif kind == "lost":
            for life in order.lost.lives:
                self._losses.told(life, time.monotonic())
                worker = self._workers.get(life.incarnation.slot)
                if worker is not None and worker.job.nonce == life.incarnation.nonce:
                    # Its worker may hold it for a moment yet, and no router shall find it there.
                    worker.sessions.pop(life.session.epoch, None)

    def _kill(self, slot: int, cause: str, stacks: bool = False) -> None:
        for action in self._rules.kill(slot, cause, stacks):
            self._do(action, time.monotonic())

    def _measure(self, now: float) -> None:
        """Look at memory, and tell what the workers use when it is time."""
        slot = self._guard.tick(self._workers, now)
        if slot is not None:
            self._kill(slot, "MEMORY_GUARD")
        usage = self._meter.tick(self._workers.values(), now)
        if usage is not None and self._router.caught_up:
            self._tell(usage={"workers": usage})

    # Processes.

    def _start_zygote(self) -> launch.Zygote:
        zygote = launch.start_zygote(self._output, self._options.adapter, self._options.arguments)
        self._known.add(zygote.pid)
        return zygote

    def _do(self, action: supervision.Action, now: float) -> None:
        match action:
            case supervision.Start(slot):
                self._start(slot, now)
            case supervision.Terminate(slot):
                self._workers[slot].signal(channel.TERMINATE, now)
            case supervision.Kill(slot, cause, stacks):
                logs.write("supervisor", "killing a worker", slot=slot, cause=cause)
                worker = self._workers[slot]
                if stacks and worker.channels is not None:
                    self._output.capture(worker.channels.output)
                    worker.stacks_until = now + _STACKS_SECONDS
                    worker.signal(channel.DUMP, now)
                else:
                    worker.signal(channel.KILL, now)

    def _end_stacks(self, worker: WorkerProcess, now: float, at_once: bool = False) -> None:
        """Log the stacks of a worker and kill it, once they are written or take too long."""
        if worker.stacks_until is None or worker.channels is None:
            return
        quiet = self._output.quiet_since(worker.channels.output)
        if at_once or now >= worker.stacks_until or (quiet and now - quiet >= _QUIET_SECONDS):
            worker.stacks_until = None
            stacks = self._output.captured(worker.channels.output) or "it wrote none in time"
            logs.write("supervisor", "what a worker did when it was killed", slot=worker.job.slot, stacks=stacks)
            worker.signal(channel.KILL, now)

    def _start(self, slot: int, now: float) -> None:
        options = self._options
        method = self._adapter.method
        job = Job(
            adapter=options.adapter,
            arguments=options.arguments,
            bridge=options.bridge,
            pod_uid=options.pod_uid,
            pod_name=options.pod_name,
            slot=slot,
            nonce=int.from_bytes(os.urandom(8), "little"),
            proof=os.urandom(16).hex(),
            forked=method == StartMethod.FORK,
            threads=max(1, int(self._cpus / max(1, len(self._rules.wanted)))),
        )
        worker = self._workers[slot] = WorkerProcess(job, method)
        self._tell(started=worker.started())
        zygote = self._adapter.zygote if job.forked else None
        try:
            worker.channels, pid = launch.start_worker(self._output, job, zygote)
        except (OSError, ValueError) as error:
            logs.write("supervisor", "a worker could not be started", slot=slot, error=error)
            worker.failed = Failed("start", type(error).__name__, "", str(error))
            worker.status = 71 << 8
            return
        if pid:
            self._known.add(pid)
        worker.start_watching(self._watch, worker.channels.control, lambda when: self._keeper_ready(worker))
        worker.start_watching(self._watch, worker.channels.report, lambda when: self._report_ready(worker, when))

    def _keeper_ready(self, worker: WorkerProcess) -> None:
        if not worker.read_control():
            worker.stop_watching(self._watch, worker.channels.control if worker.channels else None)
            worker.lost = worker.status is None

    def _report_ready(self, worker: WorkerProcess, now: float) -> None:
        for word in worker.read_report(self._watch):
            if isinstance(word, Changed):
                if not word.closed:
                    self._losses.began(word.name)
                session = {"name": word.name, "epoch": word.epoch}
                self._tell(session={"incarnation": worker.incarnation, "session": session, "closed": word.closed})
            elif isinstance(word, Loaded):
                self._adapter.spawned_loaded()
            elif isinstance(word, Ready):
                self._rules.ready(worker.job.slot, now)
                if worker.job.forked:
                    self._adapter.probed = True
            elif isinstance(word, Failed):
                self._adapter.spawned_failed(word)

    def _settle(self, now: float) -> None:
        """Bury the workers that have ended, sweep behind lost keepers, and end stuck ones."""
        for worker in list(self._workers.values()):
            worker.end_stuck_keeper(now)
            self._end_stacks(worker, now)
            if worker.lost and worker.status is None and self._swept(worker.keeper_pid):
                worker.status = int(signal.SIGKILL)
            if worker.status is not None:
                self._bury(worker, now)
        for zygote in list(self._adapter.retired):
            if self._swept(zygote.pid):
                self._adapter.retired.remove(zygote)
                self._output.finish(zygote.output)

    def _swept(self, ended: int) -> bool:
        """Whether a process and all that it left is gone. Its orphans are our children, and nobody else's are."""
        self._reap()
        if ended and not linux.ended(ended):
            return False
        keepers = {worker.keeper_pid for worker in self._workers.values()}
        orphans = [pid for pid in linux.children() if pid not in self._known and pid not in keepers]
        for pid in orphans:
            linux.kill(pid, signal.SIGKILL)
        return not orphans

    def _bury(self, worker: WorkerProcess, now: float) -> None:
        last_lines: list[str] = []
        if worker.channels is not None:
            # What it said last may still wait to be read.
            self._report_ready(worker, now)
            worker.stop_watching(self._watch, worker.channels.control)
            worker.stop_watching(self._watch, worker.channels.report)
            self._end_stacks(worker, now, at_once=True)
            last_lines = self._output.finish(worker.channels.output)
            worker.channels.close()
        life = self._rules.gone(worker.job.slot, now)
        del self._workers[worker.job.slot]
        cause = life.cause
        # Guard and kernel may choose the same worker: then the kernel's kill must not explain another death later.
        if worker.status == signal.SIGKILL and cause in ("", "MEMORY_GUARD") and self._guard.explains(now):
            cause = cause or "CONTAINER_OOM"
        exited = worker.exited(cause, last_lines)
        self._losses.ended(worker, exited["cause"], now)
        shown = ("cause", "exit_code", "signal", "error_type", "error_place")
        logs.write("supervisor", "a worker ended", slot=worker.job.slot, **{name: exited[name] for name in shown})
        self._tell(exited=exited)
        in_doubt = worker.job.forked and worker.failed is None and not self._adapter.probed and life.ready_at is None
        if in_doubt and exited["cause"] != "STOPPED":
            how = "did not end its setup in time" if exited["cause"] == "STARTUP_TIMEOUT" else "died in its setup"
            self._adapter.use_spawn(f"a worker forked from the preloaded adapter {how}")

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._known.discard(pid)

    # The end.

    def _begin_drain(self, now: float) -> None:
        seconds = self._options.drain_seconds
        logs.write("supervisor", "draining", seconds=seconds, workers=len(self._workers))
        self._drain_until = now + seconds
        self._rules.drain(now, seconds)
        self._tell(drain={"deadline_ms": self._drain_ms()})

    def _drain_without_router(self, now: float) -> None:
        """End the workers as soon as no handler runs, when there is no router to drain them."""
        if not self._router.welcome and not any(worker.busy for worker in self._workers.values()):
            self._rules.end_all(now)

    def _end(self) -> int:
        self._adapter.close()
        until = time.monotonic() + 1.0
        while self._adapter.retired and time.monotonic() < until:
            self._settle(time.monotonic())
            self._watch.wait(_SWEEP_SECONDS)
        self._router.close()
        logs.write("supervisor", "ended")
        return 0
