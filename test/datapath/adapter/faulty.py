"""The adapter of the fault tests: keeps journals, sleeps, dies on demand."""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import itertools
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


@dataclasses.dataclass
class Deadly:
    """An argument that ends the process while it is converted, before any handler runs."""

    pid: int = 0

    def __post_init__(self) -> None:
        os.kill(self.pid or os.getpid(), signal.SIGKILL)


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
    def mark_both(self, key: str, seconds: float = 0.0) -> str:
        """Write down that this key's handler began, and that it came to its end."""
        _note(key)
        time.sleep(seconds)
        _note(f"{key}:end")
        return key

    @tool
    def swallow(self, key: str, payload: bytes) -> int:
        """Write down that this key's handler began; take a request of any size."""
        _note(key)
        return len(payload)

    @tool
    def reject(self, key: str) -> None:
        """Raise."""
        _note(key)
        raise ValueError("rejected")

    @tool
    def mark_numbers(self, key: str, n: int, pause: float = 0.0) -> Iterator[int]:
        """Write down that this key's handler began, then yield 1 … n."""
        _note(key)
        yield from self.numbers(n, pause)

    @tool
    def decode_and_die(self, payload: Deadly) -> None:
        """Never run: the argument ends the process."""
        _note("decoded")

    @tool
    def watch(self, key: str, seconds: float, deaf: bool, ctx: Context) -> None:
        """Write down, in ns since 1970, what the handler saw: its deadline, when it was cancelled, when it ended."""
        remaining = ctx.time_remaining()
        _note(f"{key}:left:{-1 if remaining is None else time.time_ns() + int(remaining * 1e9)}")
        end = time.monotonic() + seconds
        if deaf:
            time.sleep(seconds)
        while time.monotonic() < end and not ctx.cancelled:
            time.sleep(0.002)
        if ctx.cancelled and not deaf:
            _note(f"{key}:cancelled:{time.time_ns()}")
        _note(f"{key}:ended:{time.time_ns()}")

    @tool
    def hang(self) -> None:
        """Wait for ever in C, holding the interpreter, without using the processor: a lock that is taken twice."""
        library = ctypes.PyDLL(None)
        mutex = ctypes.create_string_buffer(128)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)

    @tool
    def burn_at_once(self, seconds: float) -> float:
        """Hold the interpreter in a single C call of so long, without a moment for another thread."""
        begin = time.monotonic()
        # All of it is C code that takes no step of Python's: the interpreter's lock stays here.
        clock = itertools.takewhile((begin + seconds).__gt__, iter(time.monotonic, None))
        collections.deque(clock, maxlen=0)
        return time.monotonic() - begin

    @tool
    def size(self, payload: bytes) -> int:
        """Return how many bytes came."""
        return len(payload)

    @tool
    def nap(self, seconds: float) -> None:
        """Sleep in one piece: what a call of known length is made of."""
        time.sleep(seconds)
