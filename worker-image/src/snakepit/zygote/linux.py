"""What Linux offers and Python does not: subreapers, the death signal of a parent, and the children of a process."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Become the parent of all descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends, also when it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(71)


def children() -> list[int]:
    """Return the process ids of this process's children, zombies included."""
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listing:
            return [int(child) for child in listing.read().split()]
    except FileNotFoundError:
        # A kernel without CONFIG_PROC_CHILDREN, or a sandbox.
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(int(name)) == pid]


def parent_of(pid: int) -> int:
    """Return a process's parent, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as line:
            return int(line.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def ended(pid: int) -> bool:
    """Whether a process is gone or a zombie: its children have another parent by then."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as line:
            return line.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def replace_descriptors(keep: set[int]) -> None:
    """Replace inherited sockets and pipes by /dev/null.

    Closing them would free their numbers, and an object from before the fork that owns such a number would then
    close or read what is opened next. Regular files stay: a mapped model or a database read with pread is what
    preload is for.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor in keep or descriptor == null:
            continue
        try:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISDIR(mode)):
                os.dup2(null, descriptor, inheritable=False)
        except OSError:
            # The descriptor of the listing itself.
            continue
    os.close(null)
