"""The small parent of one worker: adopts and ends whatever the worker starts, and says when all of it is gone.

A worker's daemons (setsid, double fork) become children of the nearest subreaper when their parent ends. That is
this process, never the worker itself: a process that runs user code must not wait for strangers, or it would steal
the exit codes of its own subprocesses. No user code runs here.

Each page that this process or its parent writes to after the fork costs memory for good, and there is one keeper a
worker: so it is forked without Python's hooks, and does little, with few objects (0.2 MiB instead of 1.6).

Channel to the supervisor (SOCK_SEQPACKET): `S keeper worker` when the worker runs, `G status` when all is gone;
`T`, `U` and `K` from the supervisor are SIGTERM, SIGUSR1 and SIGKILL for the worker. Its end of file means that the
supervisor is gone: then everything ends.
"""

from __future__ import annotations

import gc
import os
import select
import signal
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from snakepit import logs
from snakepit.zygote import linux
from snakepit.zygote.channel import DUMP, GONE, STARTED, TERMINATE

_SWEEP_SECONDS: Final = 0.02
# A SIGTERM that comes between the interpreter's look at signals and its wait for the next frame is noticed only with
# that frame, which a pool that ends does not send: it is said again, so often and after so long.
_REMINDERS: Final = 3
_REMIND_SECONDS: Final = 0.1
_FAILED: Final = 71
_SIGNALS: Final = {TERMINATE: signal.SIGTERM, DUMP: signal.SIGUSR1}


class Ends(NamedTuple):
    """The worker's ends of its channels: descriptors, in the order in which they are passed."""

    control: int
    report: int
    output: int
    page: int
    # A file in memory that holds the Job as JSON.
    job: int


def keep(ends: Ends, exits: int, be_worker: Callable[[Ends], int]) -> NoReturn:
    """Fork the worker and be its keeper; never returns. `exits` is from `linux.child_exits`."""
    code = _FAILED
    try:
        linux.block_signals()
        linux.ignore_signal(signal.SIGCHLD, False)
        if os.getsid(0) != os.getpid():
            os.setsid()
        linux.become_subreaper()
        keeper = os.getpid()
        worker = os.fork()
        if worker == 0:
            linux.die_with_parent(keeper)
            os.setsid()
            os.close(ends.control)
            os.close(exits)
            code = be_worker(ends)
        else:
            gc.disable()
            for end in (ends.report, ends.page, ends.job):
                os.close(end)
            os.write(ends.control, STARTED.pack(b"S", keeper, worker))
            _watch(ends.control, exits, worker)
            code = 0
    except BaseException as error:
        # The supervisor takes the end of the channel as the loss of this keeper, and sweeps behind it.
        logs.write("keeper", "ends by an error", error=repr(error))
    finally:
        os._exit(code)


def _watch(control: int, exits: int, worker: int) -> None:
    """Pass signals on, reap, and end everything once the worker has ended."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(exits, select.POLLIN)
    reminders = 0
    while True:
        ready = poll.poll(_REMIND_SECONDS * 1000 if reminders else None)
        if not ready:
            reminders -= 1
            os.kill(worker, signal.SIGTERM)
        for descriptor, _ in ready:
            # Nothing is reaped before all of this round was read: until then the number cannot be another's.
            if descriptor == control:
                word = _read(control)
                if not word:
                    poll.unregister(control)
                os.kill(worker, _SIGNALS.get(word, signal.SIGKILL))
                reminders = _REMINDERS if word == TERMINATE else reminders
        _drain(exits)
        status = _reap(worker)
        if status is not None:
            end_all(exits)
            os.write(control, GONE.pack(b"G", status))
            return


def _read(control: int) -> bytes:
    try:
        return os.read(control, 16)
    except OSError:
        return b""


def _drain(exits: int) -> None:
    try:
        os.read(exits, 4096)
    except BlockingIOError:
        pass


def _reap(worker: int) -> int | None:
    """Reap what has ended; return the worker's wait status when it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == worker:
            found = status


def end_all(exits: int) -> None:
    """Kill children until there are none: the orphans of those who die become children here, and die too."""
    poll = select.poll()
    poll.register(exits, select.POLLIN)
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for child in linux.children():
            linux.kill(child, signal.SIGKILL)
        poll.poll(_SWEEP_SECONDS * 1000)
        _drain(exits)
