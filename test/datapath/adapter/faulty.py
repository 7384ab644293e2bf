"""The adapter of the fault tests: keeps journals, sleeps, dies on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

from snakepit import Adapter, Context, tool

# Every run of `mark`, in the order in which handlers began; one line each, appended by one write.
_JOURNAL = os.environ.get("JOURNAL", "")


def _note(text: str) -> None:
    with open(_JOURNAL, "ab", buffering=0) as journal:
        journal.write(f"{text}\n".encode())


class Faulty(Adapter):
    """Tools for every fault."""

    # Calls of one session run one at a time, and nothing else is shared.
    thread_safe = True

    def session_start(self, ctx: Context) -> None:
        assert ctx.session is not None
        ctx.session.state.count = 0

    @tool
    def count(self, ctx: Context, pause: float = 0.0) -> dict[str, object]:
        """Count the calls of this life."""
        assert ctx.session is not None
        ctx.session.state.count += 1
        counted = ctx.session.state.count
        if pause:
            time.sleep(pause)
        return {"count": counted, "epoch": ctx.session.epoch, "pid": os.getpid()}

    @tool
    def mark(self, key: str, seconds: float = 0.0) -> str:
        """Write down that this key's handler began, then sleep."""
        _note(key)
        if seconds:
            time.sleep(seconds)
        return key

    @tool(idempotent=True)
    def mark_again(self, key: str, seconds: float = 0.0) -> str:
        """The same, declared idempotent."""
        return self.mark(key, seconds)

    @tool
    def die(self, key: str, after: float = 0.0) -> None:
        """End this process by SIGKILL while the handler runs."""
        _note(key)
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)

    @tool
    def hold_socket(self) -> int:
        """Start a grandchild that inherits what it can and lives on."""
        child = subprocess.Popen(["sleep", "60"], close_fds=False, start_new_session=True)
        return child.pid

    @tool
    def burn(self, seconds: float) -> float:
        """Hold the interpreter in one C call for about so long."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            # One call of about a second in C that does not release the interpreter's lock.
            sum(range(30_000_000))
        return time.monotonic() - begin

    @tool
    def sleep(self, seconds: float, ctx: Context) -> float:
        """Sleep; end early when the caller gives up."""
        begin = time.monotonic()
        while (left := begin + seconds - time.monotonic()) > 0 and not ctx.cancelled:
            time.sleep(min(left, 0.02))
        return time.monotonic() - begin

    @tool
    def deaf(self, seconds: float) -> None:
        """Sleep and listen to nobody."""
        time.sleep(seconds)

    @tool
    def numbers(self, n: int, pause: float = 0.0) -> Iterator[int]:
        """Yield 1 … n."""
        for i in range(1, n + 1):
            yield i
            if pause:
                time.sleep(pause)

    @tool
    def big(self, size: int) -> bytes:
        """Return so many bytes."""
        return bytes(size)

    @tool
    def flood(self, size: int) -> Iterator[bytes]:
        """Yield pieces without end."""
        while True:
            yield bytes(size)

    @tool
    def echo(self, payload: bytes) -> bytes:
        """Return the payload."""
        return payload

    @tool
    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    @tool
    def size(self, payload: bytes) -> int:
        """Return how many bytes came."""
        return len(payload)

    @tool
    def nap(self, seconds: float) -> None:
        """Sleep in one piece: what a call of known length is made of."""
        time.sleep(seconds)
