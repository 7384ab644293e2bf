"""The whole path: a router, a supervisor, forked workers, calls, sessions, scaling."""

from __future__ import annotations

import os
import signal
import time

from conftest import Starter
from container import alive
from router_view import eventually
from snakepit.bridge.protocol import AdapterPhase, StartMethod

COUNTER = "snakepit.examples.counter:Counter"


def test_call_stream_and_session(start: Starter) -> None:
    container = start(COUNTER)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    assert router.call(worker, "add", {"a": 1, "b": 2}).result == 3
    assert router.call(worker, "countdown", {"start": 3}, stream=True).items == [3, 2, 1]
    assert router.call(worker, "echo", {"payload": b"x" * 3_000_00}).result == b"x" * 3_000_00
    assert router.open_session(worker, "s", 7).fixed == (7, 0)
    assert [router.call(worker, "count", epoch=7).result for _ in range(3)] == [1, 2, 3]
    assert router.close_session(worker, 7).fixed == (7, 0)
    assert router.call(worker, "count", epoch=7).outcome == 1
    loaded = router.wait_told(lambda m: m.adapter.phase == AdapterPhase.LOADED, "adapter loaded").adapter
    assert loaded.method == StartMethod.FORK


def test_a_killed_worker_is_replaced(start: Starter) -> None:
    router = start(COUNTER).router
    router.desire(0, 1)
    first, other = router.wait_worker(0), router.wait_worker(1)
    router.open_session(other, "kept", 5)
    nonce = router.slots[0]
    begin = time.monotonic()
    os.kill(first.pid, signal.SIGKILL)
    second = router.wait_worker(0, not_nonce=nonce)
    print(f"replaced after {(time.monotonic() - begin) * 1000:.1f} ms")
    exited = router.exited(nonce)
    assert (exited.cause, exited.signal, exited.exit_code) == ("KILLED", signal.SIGKILL, -1)
    assert router.call(second, "add", {"a": 1, "b": 1}).result == 2
    assert router.call(other, "count", epoch=5).result == 1


def test_scale_two_five_one(start: Starter) -> None:
    router = start(COUNTER).router
    router.desire(0, 1)
    pids = {slot: router.wait_worker(slot).pid for slot in (0, 1)}
    router.desire(*range(5))
    for slot in range(5):
        pids[slot] = router.wait_worker(slot).pid
    assert len(set(pids.values())) == 5
    nonces = dict(router.slots)
    router.desire(0)
    for slot in range(1, 5):
        exited = router.exited(nonces[slot])
        assert (exited.cause, exited.exit_code) == ("STOPPED", 0)
    eventually(lambda: not any(alive(pids[slot]) for slot in range(1, 5)), "stopped workers are gone")
    assert router.call(router.workers[nonces[0]], "whoami").result["pid"] == pids[0]
