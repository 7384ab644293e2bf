"""The small parent of one worker: adopts and ends whatever the worker starts, and says when all of it is gone.

A worker's daemons (setsid, double fork) become children of the nearest subreaper when their parent ends. That is
this process, never the worker itself: a process that runs user code must not wait for strangers, or it would steal
the exit codes of its own subprocesses. No user code runs here.

Channel to the supervisor (SOCK_SEQPACKET): `S keeper worker` when the worker runs, `G status` when all is gone;
`T` and `K` from the supervisor are SIGTERM and SIGKILL for the worker. Its end of file means that the supervisor
is gone: then everything ends.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any, Final, NoReturn

from snakepit import logs
from snakepit.worker import process
from snakepit.worker.report import Job, Page
from snakepit.zygote import linux
from snakepit.zygote.channel import GONE, STARTED, TERMINATE

_SWEEP_SECONDS: Final = 0.02


def keep(control: socket.socket, report: socket.socket, page: int, job: Job, load: Callable[[], Any]) -> NoReturn:
    """Fork the worker and be its keeper; never returns."""
    code = 71
    try:
        linux.replace_descriptors({0, 1, 2, control.fileno(), report.fileno(), page})
        if os.getsid(0) != os.getpid():
            os.setsid()
        linux.become_subreaper()
        wake = _catch_child_exits()
        keeper = os.getpid()
        worker = os.fork()
        if worker == 0:
            code = _be_worker(keeper, control, wake, report, page, job, load)
        else:
            gc.disable()
            report.close()
            os.close(page)
            _watch(control, wake, worker)
            code = 0
    except BaseException as error:
        # The supervisor takes the end of the channel as the loss of this keeper, and sweeps behind it.
        logs.write("keeper", "ends by an error", slot=job.slot, error=repr(error))
    finally:
        os._exit(code)


def _be_worker(
    keeper: int,
    control: socket.socket,
    wake: int,
    report: socket.socket,
    page: int,
    job: Job,
    load: Callable[[], Any],
) -> int:
    linux.die_with_parent(keeper)
    os.setsid()
    signal.set_wakeup_fd(-1)
    control.close()
    os.close(wake)
    shared = Page(page)
    os.close(page)
    return process.run(job, load, report, shared)


def _catch_child_exits() -> int:
    """Return a descriptor that becomes readable when a child ends; be deaf to everything else."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    wake, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return wake


def _watch(control: socket.socket, wake: int, worker: int) -> None:
    """Pass signals on, reap, and end everything once the worker has ended."""
    control.send(STARTED.pack(b"S", os.getpid(), worker))
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        # Signals first and reaping second: the worker's number cannot be another's until it is reaped here.
        if control.fileno() in ready:
            word = control.recv(16)
            if not word:
                poll.unregister(control.fileno())
            os.kill(worker, signal.SIGTERM if word == TERMINATE else signal.SIGKILL)
        _drain(wake)
        status = _reap(worker)
        if status is not None:
            end_all(wake)
            control.send(GONE.pack(b"G", status))
            return


def _drain(wake: int) -> None:
    try:
        os.read(wake, 4096)
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


def end_all(wake: int) -> None:
    """Kill children until there are none: the orphans of those who die become children here, and die too."""
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for child in linux.children():
            linux.kill(child, signal.SIGKILL)
        poll.poll(_SWEEP_SECONDS * 1000)
        _drain(wake)
