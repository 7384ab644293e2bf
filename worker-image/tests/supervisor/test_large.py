"""Large messages: what a worker frees it keeps for the next call, in place of faulting it in again."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Starter
from fake_router import FakeRouter
from router_view import Worker
from snakepit.bridge.protocol import StartMethod

APP = """
    from snakepit import tool

    class App:
        @tool
        def size(self, payload: bytes) -> int:
            return len(payload)
"""
MIB = 1 << 20
CALLS = 20


def faults(worker: Worker) -> int:
    """Return the minor page faults of a worker."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7])


@pytest.mark.parametrize("method", [StartMethod.FORK, StartMethod.SPAWN])
def test_large_messages_are_not_faulted_in_each_time(start: Starter, method: StartMethod) -> None:
    container = start(source=APP)
    router: FakeRouter = container.router
    router.desire(0, method=method)
    worker = router.wait_worker(0)

    def call() -> None:
        assert router.call(worker, "size", {"payload": b"x" * MIB}).result == MIB

    for _ in range(3):
        call()
    before = faults(worker)
    for _ in range(CALLS):
        call()
    # A message of 1 MiB has 256 pages, and is in several places for a moment.
    assert (faults(worker) - before) / CALLS < 128
