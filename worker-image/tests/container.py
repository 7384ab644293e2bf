"""A real supervisor process, as in the container, with a fake router beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fake_router import FakeRouter
from router_view import eventually

SOURCES = Path(__file__).resolve().parents[1] / "src"


def alive(pid: int) -> bool:
    """Whether a process runs; zombies do not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """Return a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def make_cgroup(controller: str, *bounds: str) -> Path:
    """Make a cgroup and return the first of the files `bounds` that it has; skip the test where none can be made."""
    for mount in (Path("/sys/fs/cgroup", controller), Path("/sys/fs/cgroup")):
        place = mount / f"snakepit-test-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        for name in bounds:
            if (place / name).exists():
                return place / name
        place.rmdir()
    pytest.skip(f"no cgroup that bounds {controller} can be made here")


class Container:
    """Starts `python -m snakepit.supervisor`, keeps its output in a file, and ends it."""

    def __init__(self, folder: Path, adapter: str, arguments: tuple[str, ...] = (), drain: float = 8.0) -> None:
        self.folder = folder
        self.socket = str(folder / "bridge.sock")
        self.log = folder / "log"
        self._arguments = arguments
        self._adapter = adapter
        self._drain = drain
        # Variables beside those that every supervisor needs.
        self.env: dict[str, str] = {}
        # Files to which the process writes its number before it begins: cgroup.procs of a cgroup of its own.
        self.joins: list[Path] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.router = FakeRouter(self.socket)

    def start(self) -> None:
        env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "PYTHONPATH": f"{SOURCES}{os.pathsep}{self.folder}",
            "SNAKEPIT_BRIDGE": self.socket,
            "SNAKEPIT_POD_UID": "pod-uid",
            "SNAKEPIT_POD_NAME": "pod-0",
            "SNAKEPIT_DRAIN_TIMEOUT": str(self._drain),
        }
        env |= {name: os.environ[name] for name in ("SNAKEPIT_SLOTS",) if name in os.environ}
        env |= self.env
        command = [sys.executable, "-m", "snakepit.supervisor", self._adapter, "--", *self._arguments]
        for file in self.joins:
            command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(file), *command]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def restart_router(self) -> FakeRouter:
        """Put a new router in the place of the one that was killed."""
        self.router = FakeRouter(self.socket)
        return self.router

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def terminate(self, seconds: float = 15.0) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def descendants(self) -> list[int]:
        """Return every process below the supervisor."""
        found: list[int] = []
        todo = [self.pid]
        while todo:
            pid = todo.pop()
            try:
                children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except OSError:
                continue
            found += children
            todo += children
        return found

    def close(self) -> None:
        """End everything, and see that nothing is left."""
        if self.process is None:
            self.router.kill()
            return
        left = self.descendants()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        try:
            self.router.kill()
        except OSError:
            pass
        # Keepers end their workers when the supervisor is gone.
        eventually(lambda: not [pid for pid in left if alive(pid)], "every process has ended", 5)
