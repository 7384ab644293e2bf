"""Starts processes: the zygote and spawned workers by a fresh exec, forked workers by a request to the zygote."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys

from snakepit.supervisor.output import Output, Source
from snakepit.worker.report import PAGE_BYTES, Job, Page
from snakepit.zygote.channel import MAX_PACKET, zygote_environment

_RESET_SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


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
    """Start a zygote for the adapter."""
    ours, theirs = _pair()
    stacks, stacks_write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(stacks, False)
    source, write = output.open()
    try:
        passed = [theirs.fileno(), stacks_write]
        words = [str(theirs.fileno()), str(stacks_write), adapter, *arguments]
        pid = _run("snakepit.zygote", words, passed, write, zygote_environment())
    finally:
        theirs.close()
        os.close(stacks_write)
        os.close(write)
    return Zygote(pid, ours, stacks, source)


def start_worker(output: Output, job: Job, zygote: Zygote | None) -> tuple[Channels, int]:
    """Start a worker's keeper, from the zygote or fresh; return its channels, and its pid when it is our child."""
    control, their_control = _pair()
    report, their_report = _pair()
    their_report.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    page = os.memfd_create("snakepit-page", os.MFD_CLOEXEC)
    os.ftruncate(page, PAGE_BYTES)
    source, write = output.open()
    pid = 0
    try:
        packet = json.dumps(job.to_json()).encode()
        if len(packet) > MAX_PACKET:
            raise ValueError(f"the pool's args are too long: {len(packet)} bytes")
        channels = Channels(control, report, Page(page), source)
        if zygote is not None:
            ends = [their_control.fileno(), their_report.fileno(), write, page]
            socket.send_fds(zygote.channel, [packet], ends)
        else:
            passed = [their_control.fileno(), their_report.fileno(), page]
            pid = _run("snakepit.zygote.spawn", [str(end) for end in passed], passed, write, dict(os.environ))
            control.send(packet)
    finally:
        for end in (their_control, their_report):
            end.close()
        os.close(page)
        os.close(write)
    return channels, pid
