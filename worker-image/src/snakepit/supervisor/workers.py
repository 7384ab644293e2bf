"""The supervisor's picture of one worker: its channels, what it said, and how far its end is."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from typing import Any, Final

from snakepit import logs
from snakepit.bridge.protocol import StartMethod
from snakepit.supervisor.launch import Channels
from snakepit.supervisor.watch import Callback, Watch
from snakepit.worker.report import MAX_PACKET, Changed, Failed, Job, Word, decode
from snakepit.zygote import channel, linux

KEEPER_SECONDS: Final = 2.0
# More than any pool allows a worker (sessions.maxPerWorker).
_MAX_SESSIONS: Final = 20_000
_FRAME: Final = re.compile(r'File "([^"<][^"]*)", line (\d+)')


class WorkerProcess:
    """One incarnation, from its start until all that it started is gone."""

    def __init__(self, job: Job, method: StartMethod) -> None:
        self.job = job
        self.method = method
        self.channels: Channels | None = None
        self.keeper_pid = 0
        self.worker_pid = 0
        self.sessions: dict[int, str] = {}
        self.failed: Failed | None = None
        # The worker's wait status, once its keeper said that all is gone.
        self.status: int | None = None
        # The keeper ended without a word: what is left must be swept.
        self.lost = False
        self.keeper_limit: float | None = None
        # Until when its stacks are awaited, before it is killed.
        self.stacks_until: float | None = None
        self._complained = False
        self._watched: set[socket.socket] = set()

    @property
    def incarnation(self) -> dict[str, Any]:
        """The fields of the Incarnation message."""
        return {"pod_uid": self.job.pod_uid, "slot": self.job.slot, "nonce": self.job.nonce}

    def started(self) -> dict[str, Any]:
        """The fields of the WorkerStarted message."""
        return {"incarnation": self.incarnation, "proof": bytes.fromhex(self.job.proof), "method": int(self.method)}

    def state(self) -> dict[str, Any]:
        """The fields of the WorkerState message, without its sessions."""
        running = self.channels.page.read() if self.channels else []
        start_ns, epoch = running[0] if running else (0, 0)
        busy_ms = max(0, time.monotonic_ns() - start_ns) // 1_000_000 if start_ns else 0
        return {
            "incarnation": self.incarnation,
            "proof": bytes.fromhex(self.job.proof),
            "busy": bool(start_ns),
            "busy_ms": busy_ms,
            "busy_epoch": epoch if start_ns else 0,
        }

    @property
    def busy(self) -> bool:
        """Whether a handler runs right now."""
        return self.channels is not None and bool(self.channels.page.read())

    def signal(self, word: bytes, now: float) -> None:
        """Ask the keeper to signal the worker."""
        if self.channels is None:
            return
        if word == channel.KILL:
            self.keeper_limit = now + KEEPER_SECONDS
        try:
            self.channels.control.send(word)
        except OSError:
            # The keeper is at its end; the end of its channel says so.
            pass

    def end_stuck_keeper(self, now: float) -> None:
        """Kill a keeper that did not end its worker in time; what is left is swept then."""
        if self.keeper_limit is not None and now >= self.keeper_limit:
            self.keeper_limit = None
            if self.keeper_pid:
                linux.kill(self.keeper_pid, signal.SIGKILL)

    def read_control(self) -> bool:
        """Read the keeper's words; False when its channel has ended."""
        assert self.channels is not None
        while True:
            try:
                packet = self.channels.control.recv(64)
            except BlockingIOError:
                return True
            except OSError:
                packet = b""
            if not packet:
                return False
            if packet[:1] == b"S":
                _, self.keeper_pid, self.worker_pid = channel.STARTED.unpack(packet)
            elif packet[:1] == b"G":
                self.status = channel.GONE.unpack(packet)[1]

    def read_report(self, watch: Watch) -> list[Word]:
        """Read what the worker said, and keep the mirror of its sessions."""
        assert self.channels is not None
        words: list[Word] = []
        while True:
            try:
                packet = self.channels.report.recv(MAX_PACKET)
            except OSError:
                return words
            if not packet:
                self.stop_watching(watch, self.channels.report)
                return words
            try:
                word = decode(packet)
                if isinstance(word, Changed):
                    self._mirror(word)
            except ValueError as error:
                self._complain(error)
                continue
            words.append(word)
            if isinstance(word, Failed):
                self.failed = word

    def _mirror(self, word: Changed) -> None:
        if word.closed:
            self.sessions.pop(word.epoch, None)
        elif len(self.sessions) >= _MAX_SESSIONS:
            raise ValueError(f"more than {_MAX_SESSIONS} sessions")
        else:
            self.sessions[word.epoch] = word.name

    def _complain(self, error: ValueError) -> None:
        """Log, once, that user code writes to a descriptor that is not its own. Its words are left out."""
        if not self._complained:
            self._complained = True
            logs.write("supervisor", "a worker says what means nothing", slot=self.job.slot, error=error)

    def start_watching(self, watch: Watch, what: socket.socket, callback: Callback) -> None:
        """Wait for a channel."""
        watch.add(what, callback)
        self._watched.add(what)

    def stop_watching(self, watch: Watch, what: socket.socket | None) -> None:
        """Wait for a channel no more, if it is waited for."""
        if what in self._watched:
            watch.remove(what)
            self._watched.discard(what)

    def exited(self, cause: str, last_lines: list[str]) -> dict[str, Any]:
        """The fields of the WorkerExited message; `cause` is why it was ended, empty when nobody did."""
        status = self.status if self.status is not None else signal.SIGKILL
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if not cause and self.failed is not None and self.failed.stage != "run":
            cause = "SETUP_FAILED"
        cause = cause or ("KILLED" if number else "EXITED")
        return {
            "incarnation": self.incarnation,
            "exit_code": -1 if number else os.WEXITSTATUS(status),
            "signal": number,
            "cause": cause,
            "error_type": self.failed.type if self.failed else "",
            "error_place": self.failed.place if self.failed else _crash_place(last_lines),
            "last_output": last_lines[-1] if last_lines else "",
            "last_lines": last_lines,
        }


def _crash_place(lines: list[str]) -> str:
    """Return file:line of the innermost Python frame of a crash that faulthandler wrote down; empty without one."""
    crashed = False
    for line in lines:
        crashed = crashed or line.startswith("Fatal Python error:")
        found = _FRAME.search(line) if crashed else None
        if found:
            return f"{os.path.basename(found[1])}:{found[2]}"
    return ""
