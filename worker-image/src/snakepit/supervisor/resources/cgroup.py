"""The container's limits and use of memory and CPU, as cgroup v1 and v2 tell them. Folders are arguments, for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MOUNT: Final = Path("/sys/fs/cgroup")
_PROCESS: Final = Path("/proc/self/cgroup")
# cgroup v1 says "no limit" by the largest multiple of a page that fits 63 bits; no machine has this much memory.
_NO_LIMIT: Final = 1 << 60


def own(controller: str, process: Path = _PROCESS, mount: Path = _MOUNT) -> Path | None:
    """Return the folder of this process's cgroup in the hierarchy of a controller, None when there is none.

    Inside a container the path in /proc/self/cgroup may be the host's while the mount begins at the container's own
    cgroup; then the mount itself is the folder.
    """
    try:
        lines = process.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    unified: str | None = None
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            for folder in _v1_mounts(mount, names, controller):
                return _within(folder, path)
        if not names and path.startswith("/"):
            unified = path
    if unified is None or not (mount / "cgroup.controllers").exists():
        return None
    return _within(mount, unified)


def _v1_mounts(mount: Path, names: str, controller: str) -> Iterator[Path]:
    return (folder for folder in (mount / names, mount / controller) if folder.is_dir())


def _within(mount: Path, path: str) -> Path:
    folder = mount / path.lstrip("/")
    return folder if folder.is_dir() and ".." not in folder.parts else mount


def _number(file: Path) -> int | None:
    """Return the number in a file; None when there is no file, or no number such as `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _field(file: Path, *names: str) -> int:
    """Return the first of some fields of a file with lines `name number`; 0 when there is none."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return 0
    found = {line[0]: line[1] for line in lines if len(line) == 2 and line[1].isdigit()}
    return next((int(found[name]) for name in names if name in found), 0)


def cpu_limit(folder: Path | None) -> float | None:
    """Return how many CPUs the cgroup, or one above it, may use at a time; None without a limit."""
    limits = []
    for place in _upwards(folder):
        quota, period = _number(place / "cpu.cfs_quota_us"), _number(place / "cpu.cfs_period_us")
        try:
            words = (place / "cpu.max").read_text().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            # Not cgroup v2, or `max`.
            pass
        if quota is not None and quota > 0 and period:
            limits.append(quota / period)
    return min(limits, default=None)


def _upwards(folder: Path | None) -> Iterator[Path]:
    """Yield a cgroup's folder and those above it."""
    while folder is not None and (folder / "cgroup.procs").exists():
        yield folder
        folder = folder.parent if folder != folder.parent else None


@dataclasses.dataclass(frozen=True)
class Memory:
    """The memory of the nearest cgroup that has a limit; or of the own one, when none has."""

    folder: Path
    # Bytes; None without a limit.
    limit: int | None
    unified: bool

    @classmethod
    def find(cls, folder: Path | None) -> Memory | None:
        """Return the memory of a cgroup; None where it is not told."""
        own: Memory | None = None
        for place in _upwards(folder):
            unified = (place / "memory.current").exists()
            limit = _number(place / ("memory.max" if unified else "memory.limit_in_bytes"))
            found = cls(place, limit if limit is not None and limit < _NO_LIMIT else None, unified)
            if found.limit is not None:
                return found
            if own is None and (unified or (place / "memory.usage_in_bytes").exists()):
                own = found
        return own

    def used(self, above: int = 0) -> int:
        """Return the bytes in use, without file pages that the kernel would drop; these only counted above a number."""
        usage = _number(self.folder / ("memory.current" if self.unified else "memory.usage_in_bytes")) or 0
        if usage <= above:
            return usage
        names = ("inactive_file",) if self.unified else ("total_inactive_file", "inactive_file")
        return max(0, usage - _field(self.folder / "memory.stat", *names))

    def kills(self) -> int:
        """Return how many processes the kernel has killed here for want of memory."""
        return _field(self.folder / ("memory.events" if self.unified else "memory.oom_control"), "oom_kill")
