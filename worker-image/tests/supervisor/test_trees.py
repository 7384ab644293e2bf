"""O6: all that a worker starts ends with it, by whatever means it ends, and nothing else does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from conftest import Starter
from container import Container, alive, parent_of
from fake_router import FakeRouter
from router_view import Worker, eventually

GRACE = 2.0
TREE = '''
    import os, signal, subprocess, sys, time
    from snakepit import tool

    GRANDCHILD = "import subprocess, time; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"
    DAEMON = """
    import os, signal, sys, time
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.closerange(3, 64)
    print(os.getpid(), flush=True)
    while True: time.sleep(1000)
    """

    class App:
        @tool
        def grow(self) -> dict[str, int]:
            """A child, a grandchild, a session of its own, a daemon by double fork that ignores SIGTERM."""
            run = lambda code: subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
            self.parent = run(GRANDCHILD)
            grandchild = int(self.parent.stdout.readline())
            apart = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            import textwrap
            launcher = run(textwrap.dedent(DAEMON))
            daemon = int(launcher.stdout.readline())
            launcher.wait()
            return {"child": self.parent.pid, "grandchild": grandchild, "apart": apart.pid, "daemon": daemon}

        @tool
        def orphans(self, count: int) -> list[int]:
            """Start processes whose parent ends before them: zombies that nobody here waits for."""
            code = f"for i in $(seq {count}); do (sleep 0.2) & echo $!; done"
            out = subprocess.run(["/bin/sh", "-c", code], capture_output=True, check=True)
            return [int(pid) for pid in out.stdout.split()]

        @tool
        def exit_codes(self) -> list[int]:
            codes = []
            for n in range(60):
                child = subprocess.Popen(["/bin/sh", "-c", f"exit {n % 9}"])
                codes.append(child.wait())
            return codes

        @tool
        def late_exit_code(self) -> int:
            """The exit code of a child that had been a zombie for a while."""
            child = subprocess.Popen(["/bin/sh", "-c", "exit 5"])
            while open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
            time.sleep(0.3)
            return child.wait()

        @tool
        def nap(self) -> None:
            time.sleep(1000)
'''


def grown(router: FakeRouter, worker: Worker) -> list[int]:
    tree: dict[str, int] = router.call(worker, "grow").result
    assert sorted(tree) == ["apart", "child", "daemon", "grandchild"]
    assert all(alive(pid) for pid in tree.values())
    return list(tree.values())


def gone(pids: list[int], seconds: float, what: str) -> None:
    eventually(lambda: not [pid for pid in pids if alive(pid)], what, seconds)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV], ids=lambda n: n.name)
def test_with_the_worker_goes_all_that_it_started(start: Starter, number: signal.Signals) -> None:
    router = start(source=TREE).router
    router.desire(0, 1, backoff=0.01)
    other = router.wait_worker(1)
    theirs = grown(router, other)
    nonce = 0
    for _ in range(3):
        worker = router.wait_worker(0, not_nonce=nonce)
        nonce = router.slots[0]
        mine = grown(router, worker)
        os.kill(worker.pid, number)
        gone(mine, 1.0, "all that the worker had started is gone within a second")
        router.exited(nonce)
    assert all(alive(pid) for pid in [other.pid, *theirs]), "another worker was touched"
    assert router.call(other, "exit_codes").result == [n % 9 for n in range(60)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_the_end_of_the_zygote_touches_no_worker(start: Starter, number: signal.Signals) -> None:
    container = start(source=TREE)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    mine = grown(router, worker)
    zygote = parent_of(parent_of(worker.pid))
    assert parent_of(zygote) == container.pid
    os.kill(zygote, number)
    eventually(lambda: not alive(zygote), "the zygote is gone")
    router.desire(0, 1)
    router.wait_worker(1)
    assert all(alive(pid) for pid in [worker.pid, *mine])
    os.kill(worker.pid, signal.SIGKILL)
    gone(mine, 1.0, "a worker whose zygote is gone takes its processes with it")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_with_the_supervisor_goes_everything(start: Starter, number: signal.Signals, busy: bool) -> None:
    container = start(source=TREE, drain=GRACE)
    router = container.router
    router.desire(0, 1, grace=0.5)
    workers = [router.wait_worker(slot) for slot in (0, 1)]
    started = [pid for worker in workers for pid in grown(router, worker)]
    if busy:
        id = router.start_call(workers[0], "nap")
        eventually(lambda: workers[0].frames[id], "the nap was accepted")
    everything = container.descendants()
    assert set(started) <= set(everything)
    assert container.process is not None
    container.process.send_signal(number)
    container.process.wait(GRACE + 3)
    gone(everything, GRACE + 2, "nothing is left")


def zombies(container: Container) -> list[int]:
    """Return the zombies below the supervisor."""
    found = []
    for pid in container.descendants():
        try:
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if state == b"Z":
            found.append(pid)
    return found


def test_a_hundred_zombies_are_reaped_while_the_worker_runs(start: Starter) -> None:
    container = start(source=TREE)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    orphans: list[int] = router.call(worker, "orphans", {"count": 100}).result
    assert len(set(orphans)) == 100
    assert router.call(worker, "exit_codes").result == [n % 9 for n in range(60)]
    assert router.call(worker, "late_exit_code").result == 5, "a strangers' reaper took the worker's own child"
    eventually(lambda: not [pid for pid in orphans if Path(f"/proc/{pid}").exists()], "every orphan is reaped")
    assert alive(worker.pid) and not zombies(container)
