"""Want of processes, as when a call forks without end: no worker can start, and nothing that runs is harmed."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from container import Container, alive, make_cgroup
from router_view import eventually
from snakepit.bridge.protocol import StartMethod

APP = """
    from snakepit import tool

    class App:
        @tool
        def ping(self) -> str:
            return "pong"
"""


@pytest.fixture
def group() -> Iterator[Path]:
    place = make_cgroup("pids", "pids.max").parent
    yield place
    eventually(lambda: not (place / "cgroup.procs").read_text(), "its processes are gone")
    place.rmdir()


@pytest.fixture
def container(folder: Path, group: Path) -> Iterator[Container]:
    (folder / "app.py").write_text(textwrap.dedent(APP))
    made = Container(folder, "app:App")
    made.joins.append(group / "cgroup.procs")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("method", [StartMethod.FORK, StartMethod.SPAWN])
def test_without_room_for_a_process(container: Container, group: Path, method: StartMethod) -> None:
    router = container.router
    router.desire(0, 1, method=method, backoff=0.05)
    stays, dies = router.wait_worker(0), router.wait_worker(1)
    router.open_session(stays, "kept", 11)
    before = os.listdir(f"/proc/{container.pid}/fd")
    nonce = router.slots[1]
    (group / "pids.max").write_text("1")
    os.kill(dies.pid, signal.SIGKILL)
    router.exited(nonce)
    said = "no worker could be forked" if method == StartMethod.FORK else "a worker could not be started"
    eventually(lambda: container.output().count(said) >= 2, "several tries")
    if method == StartMethod.FORK:
        zygote = next(pid for pid in container.descendants() if _runs(pid, "snakepit.zygote"))
        os.kill(zygote, signal.SIGKILL)
        eventually(lambda: container.output().count("no zygote could be started") >= 2, "several tries", 10)
    time.sleep(0.1)
    assert alive(container.pid) and router.call(stays, "ping", epoch=11).result == "pong"
    assert not any(m.HasField("adapter") and m.adapter.phase == 3 for m in router.told)
    (group / "pids.max").write_text("max")
    router.wait_worker(1, not_nonce=nonce, seconds=40)
    assert router.call(stays, "ping", epoch=11).result == "pong"
    eventually(lambda: len(os.listdir(f"/proc/{container.pid}/fd")) <= len(before), "no descriptor was lost")


def _runs(pid: int, module: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return module.encode() in words and Path(f"/proc/{pid}/status").read_text().count("\nThreads:\t1\n") == 1
