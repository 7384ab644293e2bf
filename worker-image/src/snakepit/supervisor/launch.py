"""Starts processes: the zygote and spawned workers by a fresh exec, forked workers by a request to the zygote."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import socket
import sys
from typing import Final

from snakepit.supervisor.output import Output, Source
from snakepit.worker.report import PAGE_BYTES, Job, Page
from snakepit.zygote.channel import MAX_JOB
from snakepit.zygote.keeper import Ends
from snakepit.zygote.threads import zygote_environment

_RESET_SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


# Room for the channels of 256 workers.
_DESCRIPTORS: Final = 8192


@dataclasses.dataclass
class Channels:
    """The supervisor's ends of a worker's channels."""

    control: socket.socket
    report: socket.socket
    page: Page
    output: Source

    def close(self) -> None:
        """Close what is still open; the output is finished by its owner."""
        self.control.close()
        self.report.close()
        self.page.close()


@dataclasses.dataclass
class Zygote:
    """A zygote process and the supervisor's end of its channel."""

    pid: int
    channel: socket.socket
    # Where faulthandler writes the place of a hang.
    stacks: int
    output: Source


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _run(module: str, arguments: list[str], passed: list[int], output: int, env: dict[str, str]) -> int:
    """Start `python -m module` with these descriptors kept, in a session of its own."""
    for descriptor in passed:
        os.set_inheritable(descriptor, True)
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    command = [sys.executable, "-m", module, *arguments]
    return os.posix_spawn(
        sys.executable, command, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESET_SIGNALS
    )


def start_zygote(output: Output, adapter: str, arguments: list[str]) -> Zygote:
    """Start a zygote for the adapter. Raises OSError or ValueError when it cannot; nothing is left open then."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        channel, their_channel = _pair()
        ours.callback(channel.close)
        theirs.callback(their_channel.close)
        # Requests for a batch of 256 workers wait here.
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        stacks, stacks_write = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, stacks)
        theirs.callback(os.close, stacks_write)
        os.set_blocking(stacks, False)
        source, write = output.open()
        ours.callback(output.finish, source)
        theirs.callback(os.close, write)
        passed = [their_channel.fileno(), stacks_write]
        words = [str(their_channel.fileno()), str(stacks_write), adapter, *arguments]
        pid = _run("snakepit.zygote", words, passed, write, zygote_environment())
        # From here on they are the caller's.
        ours.pop_all()
    return Zygote(pid, channel, stacks, source)


def start_worker(output: Output, job: Job, zygote: Zygote | None) -> tuple[Channels, int]:
    """Start a worker's keeper, from the zygote or fresh; return its channels, and its pid when it is our child.

    Raises OSError or ValueError when it cannot be started; nothing is left open then.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        control, their_control = _pair()
        ours.callback(control.close)
        theirs.callback(their_control.close)
        report, their_report = _pair()
        ours.callback(report.close)
        theirs.callback(their_report.close)
        their_report.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        shared = os.memfd_create("snakepit-page", os.MFD_CLOEXEC)
        theirs.callback(os.close, shared)
        os.ftruncate(shared, PAGE_BYTES)
        page = Page(shared)
        ours.callback(page.close)
        told = _job_file(job)
        theirs.callback(os.close, told)
        source, write = output.open()
        ours.callback(output.finish, source)
        theirs.callback(os.close, write)
        ends = Ends(their_control.fileno(), their_report.fileno(), write, shared, told)
        pid = 0
        if zygote is not None:
            socket.send_fds(zygote.channel, [b"%d" % job.threads], list(ends))
        else:
            pid = _run("snakepit.zygote.spawn", [str(end) for end in ends], list(ends), write, dict(os.environ))
        # From here on they are the caller's.
        ours.pop_all()
    return Channels(control, report, page, source), pid


def _job_file(job: Job) -> int:
    """Return a file in memory with the job: it may be longer than a packet."""
    data = job.to_bytes()
    if len(data) > MAX_JOB:
        raise ValueError(f"the pool's args are too long: {len(data)} bytes, more than {MAX_JOB}")
    file = os.memfd_create("snakepit-job", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(data)
    except OSError:
        os.close(file)
        raise
    return file


def raise_descriptor_limit() -> None:
    """Make room for the channels of 256 workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
