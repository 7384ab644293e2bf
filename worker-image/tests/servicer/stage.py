"""The whole way without Kubernetes: the real router, the real supervisor and workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

from servicer.servers import channel_to
from servicer.stubs import generate

ROOT = Path(__file__).resolve().parents[3]
TESTS = Path(__file__).resolve().parents[1]
SECONDS = 30.0


def router_binary() -> Path | None:
    """Return bin/router, built anew where Go is at hand; None without either."""
    binary = ROOT / "bin" / "router"
    try:
        subprocess.run(["go", "build", "-o", str(binary), "./router"], cwd=ROOT, check=True, capture_output=True)
    except FileNotFoundError:
        pass
    return binary if binary.exists() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stage:
    """One router and one supervisor on this machine."""

    def __init__(self, binary: Path, adapter: str, spec: str = "", slots: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="snp-")
        folder = Path(self._folder.name)
        self.port = free_port()
        (folder / "pool.yaml").write_text(f"poolName: cases\nrevision: r1\nimage: none\nadapter: {adapter}\n{spec}")
        self._bridge = str(folder / "bridge.sock")
        self.log = folder / "log"
        self._processes: list[subprocess.Popen[bytes]] = []
        listen = ["--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{free_port()}"]
        own = ["--config", str(folder / "pool.yaml"), "--state-dir", str(folder), "--bridge-socket", self._bridge]
        self._start([str(binary), *listen, *own], {})
        env = {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "worker-image" / "src"), str(TESTS)]),
            "SNAKEPIT_BRIDGE": self._bridge,
            "SNAKEPIT_POD_UID": "local",
            "SNAKEPIT_POD_NAME": "local",
            "SNAKEPIT_DRAIN_TIMEOUT": "4",
            "SNAKEPIT_TEST_STUBS": generate(),
            "SNAKEPIT_SLOTS": str(slots),
        }
        self._start([sys.executable, "-m", "snakepit.supervisor", adapter], env)

    def _start(self, command: list[str], env: dict[str, str]) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, env=os.environ | env, stdout=log, stderr=log, cwd=self._folder.name)
        self._processes.append(process)

    def wait_ready(self) -> None:
        """Wait until a call is answered."""
        with channel_to(self.port) as channel:
            ready = channel.unary_unary("/grpc.health.v1.Health/Check")
            # Until a worker is there, the router refuses calls at once.
            request = b"\x0a\x16snakepit.v1alpha1.Pool"
            for _ in range(int(SECONDS / 0.1)):
                try:
                    if ready(request, timeout=SECONDS, wait_for_ready=True) == b"\x08\x01":
                        return
                except grpc.RpcError:
                    pass
                try:
                    self._processes[1].wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
                break
        raise AssertionError(f"no worker is ready\n{self.output()}")

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def descendants(self) -> list[int]:
        """Return every process of the worker container."""
        found, todo = [], [self._processes[1].pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            todo += map(int, children)
        return found

    def close(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
