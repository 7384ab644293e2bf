"""Figures of worker life: B7 (replacement after SIGKILL), B8 (100 workers ready), B9 (memory of a further worker).

Runs a real supervisor with an adapter that preloads numpy, and plays its router over a unix socket: one thread, one
selector, no more work than the protocol asks for. Prints one JSON line a figure, in the format of the fault tests.

    .venv/bin/python hack/bench/workerlife.py [--workers 100] [--calls 1000] [--runs 5] [--explain]
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "worker-image" / "src"
sys.path.insert(0, str(SOURCES))

from snakepit import messages as rpc  # noqa: E402
from snakepit import values  # noqa: E402
from snakepit.bridge import messages  # noqa: E402
from snakepit.bridge.protocol import FLAGS_WHOLE, Decoder, Frame, Kind, Role  # noqa: E402

SECONDS = 60.0
MIB = 1 << 20
ADAPTER = """
import gc
from snakepit import tool

class App:
    @classmethod
    def preload(cls):
        import numpy

    @tool
    def echo(self, payload: bytes) -> bytes:
        return payload

    @tool
    def collect(self) -> int:
        return gc.collect()
"""


class Link:
    """One connection that was accepted."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = Decoder()
        self.hello: Any = None
        self.calls = 0


class Router:
    """Welcomes everybody, and notes when both connections of an incarnation are there."""

    def __init__(self, path: str) -> None:
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(600)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.supervisor: Link | None = None
        self.loaded = False
        self.data: dict[int, Link] = {}
        self.control: set[int] = set()
        self.ready: dict[int, tuple[int, float]] = {}
        self.exited: set[int] = set()
        self.finished: dict[int, int] = {}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Serve until the condition holds."""
        end = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"not within {SECONDS:g} s: {what}")
            for key, _ in self.selector.select(0.5):
                if key.data is None:
                    sock, _ = self.listener.accept()
                    self.selector.register(sock, selectors.EVENT_READ, Link(sock))
                else:
                    self._read(key.data)

    def _read(self, link: Link) -> None:
        try:
            with link.decoder.space() as room:
                count = link.sock.recv_into(room)
        except OSError:
            count = 0
        if not count:
            self.selector.unregister(link.sock)
            link.sock.close()
            return
        link.decoder.received(count)
        for frame in link.decoder.frames():
            self._frame(link, frame)

    def _frame(self, link: Link, frame: Frame) -> None:
        if frame.kind == Kind.HELLO:
            link.hello = messages.Hello.FromString(frame.payload)
            welcome = messages.Welcome(version=1, router_instance=1, max_frame_bytes=327_688)
            link.sock.sendall(Frame(Kind.WELCOME, payload=welcome.SerializeToString()).encode())
            self._welcomed(link)
        elif frame.kind == Kind.FINISH:
            self.finished[link.hello.incarnation.nonce] += 1
        elif frame.kind == Kind.CONTROL:
            told = messages.FromSupervisor.FromString(frame.payload)
            if told.WhichOneof("kind") == "exited":
                self.exited.add(told.exited.incarnation.nonce)
            elif told.WhichOneof("kind") == "adapter":
                self.loaded = told.adapter.phase == 2

    def _welcomed(self, link: Link) -> None:
        nonce = link.hello.incarnation.nonce
        if link.hello.role == Role.SUPERVISOR:
            self.supervisor = link
            return
        if link.hello.role == Role.CONTROL:
            self.control.add(nonce)
        else:
            self.data[nonce] = link
            self.finished[nonce] = 0
        if nonce in self.control and nonce in self.data:
            self.ready[nonce] = (link.hello.incarnation.slot, time.monotonic())

    def desire(self, slots: int) -> None:
        """Order so many workers, all at once."""
        assert self.supervisor is not None
        desired = {"slots": range(slots), "startup_timeout_ms": 60_000, "stop_grace_ms": 2000, "batch_size": 256}
        payload = messages.ToSupervisor(desired=desired).SerializeToString()
        self.supervisor.sock.sendall(Frame(Kind.CONTROL, payload=payload).encode())

    def live(self) -> list[int]:
        """Return the nonces of the workers that are connected and have not ended."""
        return [nonce for nonce in self.ready if nonce not in self.exited]

    def call(self, nonce: int, tool: str, body: bytes) -> None:
        """Run one call to its end."""
        link = self.data[nonce]
        link.calls += 1
        index = [known.name for known in link.hello.tools].index(tool)
        link.sock.sendall(Frame(Kind.CALL, FLAGS_WHOLE, link.calls, (index, 0, 0), b"", body).encode())
        self.until(lambda: self.finished[nonce] >= link.calls, "a call")


class Setup:
    """A supervisor and its router, in a folder of their own."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="snp-")
        folder = Path(self.folder.name)
        (folder / "app.py").write_text(ADAPTER)
        path = str(folder / "b")
        self.router = Router(path)
        env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": self.folder.name,
            "PYTHONPATH": f"{SOURCES}{os.pathsep}{folder}",
            "SNAKEPIT_BRIDGE": path,
        }
        self.log = (folder / "log").open("w+b")
        command = [sys.executable, "-m", "snakepit.supervisor", "app:App"]
        self.process = subprocess.Popen(command, env=env, cwd=folder, stdout=self.log, stderr=self.log)
        self.router.until(lambda: self.router.supervisor is not None, "the supervisor's Hello")

    def start(self, workers: int) -> float:
        """Have so many workers; return the seconds since the order."""
        begin = time.monotonic()
        self.router.desire(workers)
        self.router.until(lambda: len(self.router.live()) >= workers, f"{workers} workers")
        return time.monotonic() - begin

    def close(self) -> None:
        """End everything."""
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


def descendants(pid: int) -> Iterator[int]:
    """Yield every process below one."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def rollup(pid: int) -> dict[str, int]:
    """Return a process's smaps_rollup in bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        found[name] = int(value.split()[0]) * 1024
    return found


def pss(pid: int) -> int:
    """Return the PSS of a process and all below it, without the process itself."""
    return sum(rollup(child)["Pss"] for child in descendants(pid))


def echo_body(size: int) -> bytes:
    """Return the request of an echo."""
    request = rpc.ExecuteRequest(tool="echo")
    values.encode_into(b"x" * size, request.arguments["payload"], "payload")
    body: bytes = request.SerializeToString()
    return body


def replacement(workers: int) -> list[float]:
    """B7: kill each of some workers once; return the milliseconds until each replacement was connected."""
    setup = Setup()
    try:
        setup.start(workers)
        router, taken = setup.router, []
        for nonce in router.live():
            pid = router.data[nonce].hello.pid
            begin = time.monotonic()
            known = len(router.ready)
            os.kill(pid, signal.SIGKILL)
            router.until(lambda before=known: len(router.ready) > before, "a replacement")  # type: ignore[misc]
            taken.append((time.monotonic() - begin) * 1000)
        return taken
    finally:
        setup.close()


def many(workers: int, runs: int) -> list[float]:
    """B8: return the seconds until so many workers were ready, the first one having proved the preload."""
    taken = []
    for _ in range(runs):
        setup = Setup()
        try:
            setup.start(1)
            taken.append(setup.start(workers))
        finally:
            setup.close()
    return taken


def memory(few: int, more: int, calls: int, explain: bool) -> list[float]:
    """B9: return, a run, the MiB of PSS that each further worker costs once it has run its calls and collected."""
    setup = Setup()
    body, empty = echo_body(1024), rpc.ExecuteRequest(tool="collect").SerializeToString()
    try:
        sums, done = [], set()
        for workers in (few, more):
            setup.start(workers)
            for nonce in setup.router.live():
                if nonce not in done:
                    done.add(nonce)
                    for _ in range(calls):
                        setup.router.call(nonce, "echo", body)
                    setup.router.call(nonce, "collect", empty)
            sums.append(pss(setup.process.pid))
        if explain:
            pids = {link.hello.pid for link in setup.router.data.values()}
            for pid in list(descendants(setup.process.pid))[:7]:
                parts = rollup(pid)
                shown = {n: round(parts[n] / MIB, 2) for n in ("Rss", "Pss", "Private_Dirty", "Private_Clean")}
                print("worker" if pid in pids else "other", pid, shown, file=sys.stderr)
        return [(sums[1] - sums[0]) / (more - few) / MIB]
    finally:
        setup.close()


def figure(id: str, name: str, unit: str, values: list[float], bound: float, arguments: argparse.Namespace) -> None:
    """Print the median of some values as a figure."""
    median = statistics.median(values)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    line = {
        "id": id, "figure": name, "value": round(median, 3), "low": round(min(values), 3),
        "high": round(max(values), 3), "unit": unit, "bound": f"<={bound:g}", "ok": median <= bound,
        "runs": len(values), "seed": 0, "commit": commit,
        "command": f"hack/bench/workerlife.py --workers {arguments.workers} --calls {arguments.calls}",
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=100, help="workers of B8 (default 100)")
    parser.add_argument("--calls", type=int, default=1000, help="calls of each worker before B9 (default 1000)")
    parser.add_argument("--runs", type=int, default=5, help="repeats of B8 and B9 (default 5)")
    parser.add_argument("--only", default="", help="one figure, such as B9")
    parser.add_argument("--explain", action="store_true", help="show the memory of some processes on standard error")
    arguments = parser.parse_args()
    chosen = [arguments.only] if arguments.only else ["B7", "B8", "B9"]
    if "B7" in chosen:
        figure("B7", "SIGKILL to replacement connected", "ms", replacement(30), 50, arguments)
    if "B8" in chosen:
        figure("B8", f"{arguments.workers} workers ready", "s", many(arguments.workers, arguments.runs), 1, arguments)
    if "B9" in chosen:
        found = [memory(4, 12, arguments.calls, arguments.explain)[0] for _ in range(arguments.runs)]
        figure("B9", "PSS of a further worker", "MiB", found, 4, arguments)


if __name__ == "__main__":
    main()
