"""CPU time of the servicer layer alone: `python tests/servicer/measure.py` from worker-image."""

from __future__ import annotations

import sys
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


if __name__ == "__main__":
    main()
