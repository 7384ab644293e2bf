"""Adapters that make their end hard: trees of processes, and hooks that hang or raise."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from snakepit import tool
from stories import Stories

_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
_TREE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {_DEAF!r}]).wait()"


class Trees(Stories):
    """Starts processes in every shape that could outlive it."""

    @tool
    def start_tree(self) -> int:
        """Start a child with a grandchild, one in a session of its own, a double fork, zombies; count the living."""
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen([sys.executable, "-c", _TREE], **quiet)
        subprocess.Popen([sys.executable, "-c", _DEAF], start_new_session=True, **quiet)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    time.sleep(3600)
            os._exit(0)
        for _ in range(10):
            if os.fork() == 0:
                os._exit(0)
        return 4


def _say(hook: str, what: str) -> None:
    """Leave a proof in the container's log, which ends with its last process."""
    print(f"hook {hook} {what}", flush=True)


class GoodEnd(Stories):
    """Ends as adapters should."""

    def session_end(self) -> None:
        """Say so."""
        _say("session_end", "began")
        _say("session_end", "ended")

    def teardown(self) -> None:
        """Say so."""
        _say("teardown", "began")
        _say("teardown", "ended")


class HangingEnd(Stories):
    """Never comes back from the hook of its session."""

    def session_end(self) -> None:
        """Hang."""
        _say("session_end", "began")
        time.sleep(3600)
        _say("session_end", "ended")


class HangingTeardown(Stories):
    """Never comes back from its last hook."""

    def teardown(self) -> None:
        """Hang."""
        _say("teardown", "began")
        time.sleep(3600)
        _say("teardown", "ended")


class RaisingEnd(Stories):
    """Raises in its hooks."""

    def session_end(self) -> None:
        """Raise."""
        _say("session_end", "began")
        raise RuntimeError("session_end of the story")

    def teardown(self) -> None:
        """Raise."""
        _say("teardown", "began")
        raise RuntimeError("teardown of the story")
