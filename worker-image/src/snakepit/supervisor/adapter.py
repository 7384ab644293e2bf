"""How the user's adapter stands: the zygote that imports it, the choice of the start method, and its failures."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from typing import Final

from snakepit import logs
from snakepit.bridge.protocol import AdapterPhase, StartMethod
from snakepit.bridge.supervision import STEADY_SECONDS, pause_before
from snakepit.supervisor.launch import Zygote
from snakepit.supervisor.watch import Watch
from snakepit.worker.report import Failed, plain
from snakepit.zygote import linux

# Workers that may be starting at once, whatever the router asks for: at most all of a container.
_BATCH: Final = 256
_STACK_SECONDS: Final = 0.3
_STACK_LINE: Final = re.compile(rb'File "([^"]+)", line (\d+)')


class AdapterImport:
    """Owns the zygote. `changed` is called whenever the state that the router is told changes."""

    def __init__(self, watch: Watch, start_zygote: Callable[[], Zygote], changed: Callable[[], None]) -> None:
        self._watch = watch
        self._start_zygote = start_zygote
        self._changed = changed
        self.zygote: Zygote | None = None
        self.asked: StartMethod | None = None
        self.method = StartMethod.AUTO
        self.phase: AdapterPhase | None = None
        self.fork_unsafe = ""
        self.error: Failed | None = None
        # False under Auto until one forked worker has passed setup; until then only one may be starting.
        self.probed = False
        self._loaded = False
        self._loaded_at = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._limit = float("inf")
        self._stack_limit: float | None = None
        self._startup_seconds = 60.0
        self.retired: list[Zygote] = []

    def desire(self, method: StartMethod, startup_seconds: float) -> None:
        """Take the start method that the router wants."""
        self._startup_seconds = startup_seconds
        if method == self.asked:
            return
        self.asked = method
        self.fork_unsafe = ""
        self.probed = method != StartMethod.AUTO
        self.method = StartMethod.SPAWN if method == StartMethod.SPAWN else StartMethod.FORK
        if self.phase is None:
            self._set(AdapterPhase.LOADING)
        if self.method == StartMethod.SPAWN:
            self._retire()

    def may_start(self) -> int | None:
        """Return how many workers may be starting at once, None for not at all."""
        if self.asked is None:
            return None
        if self.method == StartMethod.SPAWN:
            return _BATCH
        if not self._loaded:
            return None
        return _BATCH if self.probed else 1

    def tick(self, now: float) -> None:
        """Start a zygote when one is wanted and it is time; give up on one that is silent."""
        if self.asked is None or self.method == StartMethod.SPAWN:
            return
        if self.zygote is None:
            if now >= self._not_before:
                self._loaded = False
                self._limit = now + self._startup_seconds
                self._stack_limit = None
                try:
                    self.zygote = self._start_zygote()
                except (OSError, ValueError) as error:
                    # Want of processes or descriptors, perhaps for a moment. What runs goes on.
                    self._put_off(Failed("start", type(error).__name__, "", str(error)), now)
                else:
                    self._watch.add(self.zygote.channel, self.readable)
        elif not self._loaded and now >= self._limit:
            if self._stack_limit is None:
                # Ask where it hangs before it is ended.
                self._stack_limit = now + _STACK_SECONDS
                self._limit = self._stack_limit
                linux.kill(self.zygote.pid, signal.SIGUSR2)
            else:
                self._time_out(now)

    def next_wakeup(self) -> float | None:
        """Return when `tick` must be called though nothing happens."""
        if self.asked is None or self.method == StartMethod.SPAWN:
            return None
        if self.zygote is None:
            return self._not_before
        return None if self._loaded else self._limit

    def readable(self, now: float) -> None:
        """Read what the zygote says."""
        assert self.zygote is not None
        try:
            packet = self.zygote.channel.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._lost(now)
            return
        try:
            failed, hazard = _imported(packet)
        except (ValueError, TypeError, LookupError):
            failed, hazard = ("ProtocolError", "", "it wrote to a descriptor that is not its own"), ""
        if failed:
            self._fail(Failed("import", *failed), now)
            return
        self._loaded = True
        self._loaded_at = now
        self._failures = 0
        self.error = None
        if hazard and self.asked == StartMethod.AUTO:
            self.use_spawn(hazard)
            return
        if hazard:
            logs.write(
                "supervisor", "the adapter is not safe to fork; startup.method Fork forks it all the same", why=hazard
            )
        self.fork_unsafe = hazard
        self._set(AdapterPhase.LOADED)

    def use_spawn(self, why: str) -> None:
        """Choose Spawn, because forking is in doubt."""
        logs.write("supervisor", "workers are spawned, not forked", why=why)
        self.method = StartMethod.SPAWN
        self.fork_unsafe = why
        self.probed = True
        self._retire()
        self._set(AdapterPhase.LOADED)

    def spawned_loaded(self) -> None:
        """Take note that a spawned worker has imported the adapter."""
        if self.method == StartMethod.SPAWN and (self.phase != AdapterPhase.LOADED or self.error):
            self.error = None
            self._set(AdapterPhase.LOADED)

    def spawned_failed(self, word: Failed) -> None:
        """Take note that a spawned worker could not import the adapter."""
        if self.method == StartMethod.SPAWN and word.stage == "import":
            self.error = word
            self._set(AdapterPhase.FAILED)

    def _lost(self, now: float) -> None:
        if self._loaded:
            # Workers live on without it; it is only missed when one must be started.
            logs.write("supervisor", "the zygote ended; starting another")
            if now - self._loaded_at >= STEADY_SECONDS:
                self._failures = 0
            self._loaded = False
            self._retire()
            self._not_before = now + pause_before(self._failures)
            self._failures += 1
            return
        if self._stack_limit is not None:
            # It was too slow even to take the question where it hangs, whose signal then ended it.
            self._time_out(now)
            return
        how = "the process that imports the adapter ended without a word (os._exit, a crash, or out of memory)"
        self._fail(Failed("import", "ProcessExited", "", how), now)

    def _time_out(self, now: float) -> None:
        text = f"the import did not end within {self._startup_seconds:g} s (startup.timeout)"
        self._fail(Failed("import", "StartupTimeout", self._hang_place(), text), now)

    def _put_off(self, word: Failed, now: float) -> None:
        if self.phase != AdapterPhase.LOADED:
            self._fail(word, now)
            return
        self._not_before = now + pause_before(self._failures)
        self._failures += 1
        logs.write("supervisor", "no zygote could be started; trying again", error=word.message)

    def _fail(self, word: Failed, now: float) -> None:
        self._retire()
        self._loaded = False
        self._failures += 1
        pause = pause_before(self._failures)
        self._not_before = now + pause
        self.error = word
        logs.write(
            "supervisor",
            "the adapter cannot be imported; trying again",
            type=word.type,
            place=word.place,
            seconds=pause,
        )
        self._set(AdapterPhase.FAILED)

    def _hang_place(self) -> str:
        assert self.zygote is not None
        try:
            found = _STACK_LINE.findall(os.read(self.zygote.stacks, 1 << 16))
        except OSError:
            return ""
        # The innermost frame comes first; the interpreter's own import machinery says nothing.
        for file, line in found:
            if not file.startswith(b"<"):
                return f"{os.path.basename(file.decode('utf-8', 'replace'))}:{line.decode()}"
        return ""

    def _retire(self) -> None:
        """End the zygote; its owner reaps it."""
        zygote, self.zygote = self.zygote, None
        if zygote is not None:
            linux.kill(zygote.pid, signal.SIGKILL)
            self._watch.remove(zygote.channel)
            zygote.channel.close()
            os.close(zygote.stacks)
            self.retired.append(zygote)

    def close(self) -> None:
        """End the zygote for good."""
        self.asked = None
        self._retire()

    def _set(self, phase: AdapterPhase) -> None:
        self.phase = phase
        self._changed()


def _imported(packet: bytes) -> tuple[tuple[str, str, str] | None, str]:
    """Return how an import failed, or why no fork is safe. Raises on anything else: user code has the descriptor."""
    word = plain(packet)
    if "failed" not in word:
        return None, str(word["loaded"])
    kind, place, message = map(str, word["failed"])
    return (kind, place, message), ""
