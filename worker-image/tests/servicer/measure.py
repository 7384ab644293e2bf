"""CPU time of the servicer layer alone, and of a worker that serves one: `python tests/servicer/measure.py`.

Not a test: figures depend on the machine. The other side of the worker's sockets is a plain loop, in this process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]

from servicer.stubs import generate  # noqa: E402

generate()

import cases_pb2  # noqa: E402
import grpc  # noqa: E402

import snakepit  # noqa: E402
from bare import BareWorker  # noqa: E402
from measure_worker import PlainRouter, exchange  # noqa: E402
from snakepit.bridge import messages  # noqa: E402

APP = """
import cases_pb2, grpc, snakepit

async def coroutine(request, context):
    return request

read, write = cases_pb2.Ask.FromString, cases_pb2.Ask.SerializeToString
server = snakepit.server()
server.add_registered_method_handlers("measure.Echo", {
    "A": grpc.unary_unary_rpc_method_handler(lambda request, context: request, read, write),
    "B": grpc.unary_unary_rpc_method_handler(coroutine, read, write),
})
"""
CALLS = 100_000


class Wire:
    """A CallWire that costs next to nothing."""

    cancelled = False
    deadline = None
    session = None

    def __init__(self, message: bytes) -> None:
        self.message = message

    def receive(self) -> bytes:
        return self.message

    def finish(self, code: int, message: str = "", trailers: Any = (), answer: bytes | None = None) -> None:
        self.answer = answer


def echo(request: Any, context: Any) -> Any:
    return request


def microseconds(run: Callable[[], None]) -> float:
    """Return the CPU time of one call, the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(CALLS):
            run()
        best = min(best, time.process_time() - began)
    return best / CALLS * 1e6


def main() -> None:
    server = snakepit.server()
    read, write = cases_pb2.Ask.FromString, cases_pb2.Ask.SerializeToString
    handlers = {"One": grpc.unary_unary_rpc_method_handler(echo, read, write)}
    handlers["Raw"] = grpc.unary_unary_rpc_method_handler(echo)
    server.add_registered_method_handlers("measure.Echo", handlers)
    one, raw = server.methods
    wire = Wire(cases_pb2.Ask(case="echo", data=bytes(1024)).SerializeToString())
    message = wire.message
    floor = microseconds(lambda: None)
    codec = microseconds(lambda: write(echo(read(message), None))) - floor
    print(f"handler and messages alone  {codec:5.2f} us")
    print(f"a call of 1 KiB             {microseconds(lambda: one.run(wire)) - floor:5.2f} us")
    print(f"a call without messages     {microseconds(lambda: raw.run(wire)) - floor:5.2f} us")
    in_a_worker(message)


def in_a_worker(message: bytes) -> None:
    """Print the CPU time of a whole worker process, a call."""
    with tempfile.TemporaryDirectory(prefix="snp-") as name:
        folder = Path(name)
        (folder / "echo.py").write_text(APP)
        router = PlainRouter(str(folder / "s"))
        worker = BareWorker(folder, str(folder / "s"), "echo:server", SNAKEPIT_SOURCES=sources())
        try:
            sock, _ = router.accept()
            info = messages.CallInfo(request_id="0123456789abcdef0123456789abcdef", peer="ipv4:10.0.0.7:51234")
            ext, first = info.SerializeToString(), 1
            for index, kind in enumerate(("plain function", "coroutine")):
                for ahead in (1, 2):
                    used = []
                    for _ in range(5):
                        before = cpu_seconds(worker.process.pid)
                        exchange(sock, first, CALLS // 10, message, index, ext, ahead)
                        used.append((cpu_seconds(worker.process.pid) - before) / (CALLS // 10) * 1e6)
                        first += CALLS // 10
                    print(f"worker, {kind:14}, {ahead} outstanding  {sorted(used)[2]:5.1f} us (least {min(used):.1f})")
        finally:
            worker.close()


def sources() -> str:
    return str(Path(snakepit.__file__).parents[1]) + ":" + generate()


def cpu_seconds(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


if __name__ == "__main__":
    main()
