"""The adapter that the end-to-end stories call; mounted into the worker container from a ConfigMap."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakepit import Context, tool


def _process() -> str:
    """Name this process as no other of any pod is named: by its pod, its number, and its start since the node's."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.uname().nodename}/{os.getpid()}/{started}"


class Stories:
    """Small tools with effects that a story can observe from outside."""

    @tool
    def add(self, a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    @tool
    def count(self, ctx: Context) -> dict[str, Any]:
        """Count the calls of this session, and say which process did."""
        state = ctx.session.state
        state["n"] = state.get("n", 0) + 1
        return {"n": state["n"], "by": _process()}

    @tool
    def slow_count(self, ctx: Context, seconds: float) -> dict[str, Any]:
        """Count after a sleep, so that a story can disturb the running call."""
        time.sleep(seconds)
        return self.count(ctx)

    @tool
    def whoami(self) -> dict[str, int]:
        """Name the process."""
        return {"pid": os.getpid(), "uid": os.getuid()}

    @tool
    def countdown(self, start: int) -> Iterator[int]:
        """Yield start … 1."""
        yield from range(start, 0, -1)

    @tool
    async def nap(self, seconds: float) -> float:
        """Sleep without holding a thread."""
        await asyncio.sleep(seconds)
        return seconds

    @tool
    def fail(self, message: str) -> None:
        """Raise ValueError."""
        raise ValueError(message)

    @tool
    def die(self) -> None:
        """End this process as the kernel would."""
        os.kill(os.getpid(), signal.SIGKILL)

    @tool
    def start_daemon(self) -> int:
        """Start a process that leaves the session and the process group, and ignores SIGTERM; return its pid."""
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
        launcher = (
            "import subprocess, sys;"
            f"p = subprocess.Popen([sys.executable, '-c', {code!r}],"
            "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
            "print(p.pid)"
        )
        done = subprocess.run([sys.executable, "-c", launcher], capture_output=True, text=True, check=True)
        return int(done.stdout)

    @tool
    def alive(self, pid: int) -> bool:
        """Say whether a process of this container lives."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
