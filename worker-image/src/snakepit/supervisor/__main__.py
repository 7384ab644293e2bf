"""`python3 -m snakepit.supervisor MODULE:CLASS -- ARGUMENTS`: PID 1 of the worker container."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Take signals, then everything else: a SIGTERM that comes while this imports must not be lost."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    from snakepit import logs
    from snakepit.supervisor import options
    from snakepit.supervisor.supervisor import Supervisor

    try:
        chosen = options.parse(sys.argv[1:], os.environ)
    except options.OptionsError as error:
        logs.write("supervisor", f"cannot start: {error}")
        return 2
    return Supervisor(chosen, wake, lambda: bool(asked)).run()


if __name__ == "__main__":
    sys.exit(main())
