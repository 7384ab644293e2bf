"""The memory guard and the kernel's killer, in a cgroup with a real limit, where the machine allows one."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from container import Container, alive, make_cgroup
from router_view import eventually
from snakepit.supervisor.resources import cgroup

MIB = 1 << 20
LIMIT = 220 * MIB
HUNGRY = """
    import mmap, os, subprocess, sys
    from snakepit import tool

    class App:
        def __init__(self):
            self.held = []

        @tool
        def hold(self, mib: int) -> None:
            self.held.append(os.urandom(mib << 20))

        @tool
        def hold_in_a_child(self, mib: int) -> int:
            code = f"import os, time; held = os.urandom({mib} << 20); print(1, flush=True); time.sleep(1000)"
            child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
            child.stdout.readline()
            return child.pid

        @tool
        def burst(self) -> None:
            '''Take more than there is, in one system call: quicker than any guard looks.'''
            self.held.append(mmap.mmap(-1, 400 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))

        @tool
        def ping(self) -> str:
            return "pong"
"""


@pytest.fixture
def container(folder: Path) -> Iterator[Container]:
    bound = make_cgroup("memory", "memory.limit_in_bytes", "memory.max")
    bound.write_text(str(LIMIT))
    place = bound.parent
    (folder / "app.py").write_text(textwrap.dedent(HUNGRY))
    made = Container(folder, "app:App")
    made.joins.append(place / "cgroup.procs")
    try:
        made.start()
        yield made
    finally:
        made.close()
        print(made.output())
        eventually(lambda: not (place / "cgroup.procs").read_text(), "the cgroup is empty")
        place.rmdir()


def test_the_guard_ends_the_largest_worker_before_the_kernel_does(container: Container) -> None:
    router = container.router
    router.desire(0, 1, 2, backoff=0.01)
    small, large, parent = (router.wait_worker(slot) for slot in (0, 1, 2))
    router.call(small, "hold", {"mib": 30})
    child = router.call(parent, "hold_in_a_child", {"mib": 50}).result
    nonce = router.slots[1]
    memory = cgroup.Memory.find(container.joins[0].parent)
    assert memory is not None and memory.limit == LIMIT

    def grow() -> bool:
        # A step is small beside the room above the guard's bound.
        if memory.used() < LIMIT * 0.97 and alive(large.pid):
            # Its connection may end under the call.
            with contextlib.suppress(OSError):
                id = router.start_call(large, "hold", {"mib": 3})
                eventually(lambda: large.frames[id] or not alive(large.pid), "a step, or the end")
        return any(m.exited.incarnation.nonce == nonce for m in list(router.told))

    eventually(grow, "the largest worker was ended", 30)
    assert router.exited(nonce).cause == "MEMORY_GUARD"
    router.wait_worker(1, not_nonce=nonce)
    assert router.call(small, "ping").result == "pong" and alive(child)
    assert memory.kills() == 0, "the kernel had no reason to kill"


def test_a_kill_by_the_kernel_is_told_as_such(container: Container) -> None:
    router = container.router
    router.desire(0, 1, backoff=0.01)
    router.wait_worker(1)
    neighbour = router.slots[1]
    causes: list[str] = []
    nonce = 0

    def killed_by_the_kernel() -> bool:
        nonlocal nonce
        worker = router.wait_worker(0, not_nonce=nonce)
        nonce = router.slots[0]
        router.start_call(worker, "burst")
        causes.append(router.exited(nonce).cause)
        return "CONTAINER_OOM" in causes

    def answers(slot: int) -> bool:
        worker = router.wait_worker(slot)
        # It may be killed under the call.
        with contextlib.suppress(OSError):
            id = router.start_call(worker, "ping")
            eventually(lambda: worker.frames[id] or not alive(worker.pid), "an answer, or the end")
            return bool(worker.frames[id]) and router.finish(worker, id).result == "pong"
        return False

    # The guard may come first by chance, but not for ever.
    eventually(killed_by_the_kernel, "the kernel killed a worker", 30)
    assert set(causes) <= {"CONTAINER_OOM", "MEMORY_GUARD"}
    # The kernel forgets a victim once it exits, before its memory is free: who asks for memory then costs others their
    # lives too, the zygote among them. None of that goes untold, and every slot has a worker again.
    eventually(lambda: answers(0) and answers(1), "workers answer again", 30)
    told = [m.exited for m in list(router.told) if m.WhichOneof("kind") == "exited"]
    assert {exited.cause for exited in told} <= {"CONTAINER_OOM", "MEMORY_GUARD"}
    memory = cgroup.Memory.find(container.joins[0].parent)
    assert memory is not None and memory.kills() >= sum(exited.cause == "CONTAINER_OOM" for exited in told)
    if router.slots[1] != neighbour:
        assert router.exited(neighbour).cause == "CONTAINER_OOM", "the guard takes the largest, never its neighbour"
