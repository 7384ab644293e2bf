"""What Linux offers and Python does not: subreapers, the death signal of a parent, signal descriptors, bare forks."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
# Calls that keep the interpreter's lock.
_HELD: Final = ctypes.PyDLL(None, use_errno=True)
# A sigset_t has 1,024 bits in glibc and in musl.
_SIGSET_BYTES: Final = 128
# What raises oom_score_adj. Zygote and keepers end before the supervisor, whose end is the container's; they are about
# as large. Workers end before both.
OOM_STEP: Final = 5
OOM_STEP_WORKER: Final = 100
_FIRST_REAL_TIME: Final = 32
_ALL_SIGNALS: Final = b"\xff" * _SIGSET_BYTES
_BLOCK: Final = int(signal.SIG_BLOCK)
_UNBLOCK: Final = int(signal.SIG_UNBLOCK)
_fork: Final = _HELD.fork
_fork.argtypes = ()
_sigmask: Final = _HELD.pthread_sigmask
_sigmask.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# The largest that glibc takes, and what of freed memory a process keeps.
_MMAP_THRESHOLD_BYTES: Final = 32 << 20
_KEPT_BYTES: Final = 32 << 20


def keep_freed_memory() -> None:
    """Have malloc keep up to 32 MiB of freed memory, in place of giving it back and faulting it in at each call.

    A message of 1 MiB is in several places for a moment: four fifths of the processor time for it were page faults.
    Nothing happens where the libc has no such setting, or the environment has one already.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


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


def bare_fork() -> int:
    """Fork without Python's hooks around it: the child shares 0.6 MiB more with its parent, and starts sooner.

    Only where the process has one thread, and for a child that runs none of the user's code: what a fork leaves to
    repair (locks, random generators, hooks of libraries) stays as it is.
    """
    pid: int = _fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fork: {os.strerror(number)}")
    return pid


def block_signals() -> None:
    """Be deaf to every signal that can be blocked. Python's own call would build a set of 64 enumerated numbers."""
    _sigmask(_BLOCK, _ALL_SIGNALS, None)


def unblock_signals() -> None:
    """Hear every signal again."""
    _sigmask(_UNBLOCK, _ALL_SIGNALS, None)


def ignore_signal(number: int, ignored: bool) -> None:
    """Ignore a signal, or give it its default action, behind Python's back: to signal.getsignal() nothing changes."""
    _HELD.signal(number, ctypes.c_void_p(1 if ignored else 0))


def child_exits() -> int:
    """Return a descriptor that is readable for a process that polls it when a child of that process has ended.

    SIGCHLD must be blocked there. A child of a fork may use the same descriptor for its own children.
    """
    mask = (1 << (signal.SIGCHLD - 1)).to_bytes(_SIGSET_BYTES, "little")
    descriptor: int = _LIBC.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"signalfd: {os.strerror(number)}")
    return descriptor


def caught_or_ignored() -> set[int]:
    """Return the signals whose action is not the default one, without those that the C library keeps for itself."""
    numbers: set[int] = set()
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith((b"SigCgt:", b"SigIgn:")):
                bits = int(line.split()[1], 16)
                numbers |= {number + 1 for number in range(64) if bits >> number & 1}
    return {number for number in numbers if number < _FIRST_REAL_TIME or number >= signal.SIGRTMIN}


def raise_oom_score(step: int) -> None:
    """Be preferred by so much, in thousandths of all memory, when the kernel must kill for want of it."""
    try:
        score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # A sandbox without it; the kernel then chooses by size alone.
        return
    try:
        os.pwrite(score, b"%d" % min(1000, int(os.read(score, 16)) + step), 0)
    except (OSError, ValueError):
        # The same.
        pass
    finally:
        os.close(score)


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
