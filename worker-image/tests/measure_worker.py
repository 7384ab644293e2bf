"""Measures what a call costs a worker: `../.venv/bin/python tests/measure_worker.py [--profile] [--slots N]`.

The router's side here is a plain loop that writes the same Call again and again, in a process of its own, so that its
cost is not the worker's. CPU time is the worker's own, asked by a call. Not a test: figures depend on the machine.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import textwrap
import time
from pathlib import Path

from bare import BareWorker
from router_view import request
from snakepit import messages as rpc
from snakepit import values
from snakepit.bridge import messages
from snakepit.bridge.protocol import FLAGS_WHOLE, Decoder, Frame, Kind

SOURCES = Path(__file__).parents[1] / "src"

APP = """
    import cProfile, pstats, resource, sys, time
    from snakepit import Context, tool

    profile = cProfile.Profile()

    class App:
        thread_safe = True

        @tool
        def cpu(self) -> list[float]:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return [time.process_time(), usage.ru_utime, usage.ru_stime]

        @tool
        def echo(self, payload: bytes) -> bytes:
            return payload

        @tool
        def echo_ctx(self, ctx: Context, payload: bytes) -> bytes:
            ctx.request_id
            return payload

        @tool
        async def echo_async(self, payload: bytes) -> bytes:
            return payload

        @tool
        def start(self) -> None:
            profile.enable()

        @tool
        def stop(self) -> None:
            profile.disable()
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(25)
"""


def exchange(sock: socket.socket, first: int, count: int, body: bytes, index: int, ext: bytes, ahead: int) -> float:
    """Send `count` calls with `ahead` outstanding; return the seconds that it took."""
    call = bytearray(Frame(Kind.CALL, FLAGS_WHOLE, 0, (index, 0, 30_000_000), ext, body).encode())
    decoder = Decoder()
    begun = time.perf_counter()
    sent = done = 0
    while done < count:
        while sent < count and sent - done < ahead:
            call[8:12] = (first + sent).to_bytes(4, "little")
            sock.sendall(call)
            sent += 1
        with decoder.space() as room:
            got = sock.recv_into(room)
        if not got:
            raise SystemExit("the worker closed DATA")
        decoder.received(got)
        for frame in decoder.frames():
            if frame.kind == Kind.FINISH:
                if frame.fixed != (0, 0):
                    raise SystemExit(f"failed: {frame} {frame.ext!r}")
                done += 1
    return time.perf_counter() - begun


class PlainRouter:
    """Takes one worker's two connections, and leaves DATA to whoever measures."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(2)

    def accept(self) -> tuple[socket.socket, list[str]]:
        """Return the DATA connection and the names of the tools. CONTROL stays open and silent."""
        self.control, _ = self._welcome()
        return self._welcome()

    def _welcome(self) -> tuple[socket.socket, list[str]]:
        sock, _ = self.listener.accept()
        decoder = Decoder()
        while (frame := decoder.next_frame()) is None:
            decoder.feed(sock.recv(65536))
        hello = messages.Hello.FromString(frame.payload)
        welcome = messages.Welcome(version=max(hello.versions), initial_window_bytes=1 << 20, max_message_bytes=1 << 30)
        sock.sendall(Frame(Kind.WELCOME, payload=welcome.SerializeToString()).encode())
        return sock, [tool.name for tool in hello.tools]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sources", default=str(SOURCES), help="the package to measure, such as an older one")
    parser.add_argument("--bytes", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snp-") as name:
        folder = Path(name)
        (folder / "app.py").write_text(textwrap.dedent(APP))
        router = PlainRouter(str(folder / "s"))
        bare = BareWorker(folder, str(folder / "s"), "app:App", options.slots, SNAKEPIT_SOURCES=options.sources)
        try:
            measure(router, options)
        finally:
            bare.close()
        if options.profile:
            print(bare.log.read_text())


def measure(router: PlainRouter, options: argparse.Namespace) -> None:
    """Run every kind of call, one outstanding and with one more sent ahead."""
    sock, tools = router.accept()
    next_id = 1
    info = messages.CallInfo(request_id="0123456789abcdef0123456789abcdef", peer="ipv4:10.0.0.7:51234")
    ext = info.SerializeToString()

    def call(name: str, count: int, ahead: int, body: bytes) -> float:
        nonlocal next_id
        seconds = exchange(sock, next_id, count, body, tools.index(name), ext, ahead)
        next_id += count
        return seconds

    def cpu() -> list[float]:
        nonlocal next_id
        frame = Frame(Kind.CALL, FLAGS_WHOLE, next_id, (tools.index("cpu"), 0, 0), b"", request("cpu", {}))
        next_id += 1
        sock.sendall(frame.encode())
        decoder = Decoder()
        while True:
            decoder.feed(sock.recv(65536))
            for got in decoder.frames():
                if got.kind == Kind.FINISH:
                    found = values.decode(rpc.ExecuteResponse.FromString(got.payload).result)
                    return [float(value) for value in found]

    names = [name for name in ("echo", "echo_ctx", "echo_async") if name in tools]
    call("echo", 2000, 1, request("echo", {"payload": bytes(options.bytes)}))
    for name in names:
        body = request(name, {"payload": bytes(options.bytes)})
        for ahead in (1, 2, 8):
            figures = []
            for _ in range(options.repeats):
                before = cpu()
                seconds = call(name, options.calls, ahead, body)
                after = cpu()
                used = [(b - a) / options.calls * 1e6 for a, b in zip(before, after, strict=True)]
                figures.append((used[0], used[1], used[2], options.calls / seconds))
            total, user, system, rate = (statistics.median(column) for column in zip(*figures, strict=True))
            low = min(figure[0] for figure in figures)
            print(
                f"{name:12} outstanding {ahead}: {total:6.1f} us CPU a call (least {low:.1f}; user {user:.1f}, "
                f"system {system:.1f}), {rate:8.0f} calls/s",
                flush=True,
            )
    if options.profile:
        call("start", 1, 1, request("start", {}))
        call("echo", options.calls, 1, request("echo", {"payload": bytes(options.bytes)}))
        call("stop", 1, 1, request("stop", {}))


if __name__ == "__main__":
    main()
