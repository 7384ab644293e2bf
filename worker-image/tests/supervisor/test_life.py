"""What is told of a worker's life: its use of CPU and memory, where it hung, and why and how it ended."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from conftest import Starter
from container import parent_of
from fake_router import FakeRouter
from router_view import Worker, eventually
from snakepit.bridge.protocol import StartMethod

LIFE = '''
    import ctypes, os, signal, subprocess, sys, threading, time
    from snakepit import tool

    class App:
        def __init__(self, *args):
            self.args = args

        @tool
        def sizes(self) -> list[int]:
            return [len(arg) for arg in self.args]

        @tool
        def burn(self, seconds: float) -> None:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass

        @tool
        def burn_apart(self, seconds: float) -> int:
            """Burn in a living grandchild."""
            code = f"import time\\nwhile time.process_time() < {seconds}: pass\\nprint(1, flush=True)\\ntime.sleep(999)"
            shell = subprocess.Popen(["/bin/sh", "-c", f"{sys.executable} -S -c '{code}'; :"], stdout=subprocess.PIPE)
            shell.stdout.readline()
            return shell.pid

        @tool
        def hold(self, mib: int) -> None:
            self.held = bytearray(os.urandom(1 << 20) * mib)

        @tool
        def hang_in_python(self) -> None:
            print("about to hang", flush=True)
            time.sleep(1000)

        @tool
        def hang_in_c(self) -> None:
            """Hold the interpreter's lock in C code."""
            ctypes.PyDLL(None).sleep(1000)

        @tool
        def hang_deaf(self) -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            time.sleep(1000)

        @tool
        def chat(self, lines: int) -> None:
            for n in range(lines):
                print(f"line {n} " + "x" * 300)

        @tool
        def leave(self, how: str) -> None:
            print(f"leaving by {how}")
            if how == "os._exit":
                os._exit(9)
            if how == "sys.exit in a signal handler":
                signal.signal(signal.SIGALRM, lambda number, frame: sys.exit(7))
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                return
            if how == "an exception in a signal handler":
                signal.signal(signal.SIGALRM, lambda number, frame: 1 // 0)
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                return
            if how == "segfault":
                ctypes.string_at(0)
            if how == "abort":
                os.abort()
            sys.exit(6)
'''


def begin(start: Starter, **more: Any) -> tuple[FakeRouter, Worker]:
    router = start(source=LIFE).router
    router.desire(0, **more)
    return router, router.wait_worker(0)


def usage(router: FakeRouter, seen: int = 0) -> list[Any]:
    """Return the messages with workers in them after the first `seen` ones."""
    told = [m.usage for m in list(router.told) if m.WhichOneof("kind") == "usage" and m.usage.workers]
    return told[seen:]


def test_usage_tells_cpu_time_of_the_whole_tree_and_private_memory(start: Starter) -> None:
    router, worker = begin(start, usage_interval_ms=50, measure_memory=True)
    nonce = router.slots[0]
    first = eventually(lambda: usage(router), "usage")[0].workers[0]
    assert first.incarnation.nonce == nonce and 0 < first.private_bytes < 64 << 20
    router.call(worker, "burn", {"seconds": 0.3})
    eventually(lambda: usage(router)[-1].workers[0].cpu_us >= 290_000, "the worker's own time")
    router.call(worker, "burn_apart", {"seconds": 0.3})
    eventually(lambda: usage(router)[-1].workers[0].cpu_us >= 580_000, "the time of a living grandchild")
    router.call(worker, "hold", {"mib": 40})
    eventually(lambda: usage(router)[-1].workers[0].private_bytes >= 40 << 20, "its memory")
    times = [message.workers[0].cpu_us for message in usage(router)]
    assert times == sorted(times)
    router.desire(0, usage_interval_ms=50)
    eventually(lambda: usage(router)[-1].workers[0].private_bytes == 0, "memory is not measured any more")
    router.desire(0)
    # An order is obeyed in its turn: once this kill is reported, the wish before it holds.
    router.kill_worker(0, "TEST")
    router.exited(nonce)
    router.wait_worker(0, not_nonce=nonce)
    count = len(usage(router))
    router.kill_worker(0, "TEST")
    router.exited(router.slots[0])
    assert len(usage(router)) == count


@pytest.mark.parametrize(("tool", "place"), [("hang_in_python", "in hang_in_python"), ("hang_in_c", "in hang_in_c")])
def test_the_stacks_are_logged_before_a_kill(start: Starter, tool: str, place: str) -> None:
    container = start(source=LIFE)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    id = router.start_call(worker, tool)
    eventually(lambda: worker.frames[id], "accepted")
    nonce = router.slots[0]
    router.kill_worker(0, "STUCK", stacks=True)
    exited = router.exited(nonce)
    assert (exited.cause, exited.signal) == ("STUCK", signal.SIGKILL)
    lines = [line for line in container.output().splitlines() if "what a worker did" in line]
    assert len(lines) == 1 and place in lines[0] and "slot=0" in lines[0]
    assert "snakepit-control" in lines[0] or lines[0].count("hread 0x") >= 2, "all threads"


def test_a_worker_that_cannot_tell_its_stacks_is_killed_all_the_same(start: Starter) -> None:
    container = start(source=LIFE)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    id = router.start_call(worker, "hang_deaf")
    eventually(lambda: worker.frames[id], "accepted")
    nonce = router.slots[0]
    router.kill_worker(0, "CALL_TIMEOUT", stacks=True)
    assert router.exited(nonce, 3).cause == "CALL_TIMEOUT"
    # The mask may come a moment after Accepted; both ends are right.
    assert "what a worker did when it was killed" in container.output()


@pytest.mark.parametrize(
    ("how", "code", "number", "kind", "place"),
    [
        ("os._exit", 9, 0, "", ""),
        ("sys.exit in a signal handler", 7, 0, "SystemExit", "app.py:57"),
        ("an exception in a signal handler", 70, 0, "ZeroDivisionError", "app.py:61"),
        ("segfault", -1, signal.SIGSEGV, "", "__init__.py"),
        ("abort", -1, signal.SIGABRT, "", "app.py:67"),
    ],
    ids=lambda value: str(value).replace(" ", "-"),
)
def test_exits_are_told_apart(start: Starter, how: str, code: int, number: int, kind: str, place: str) -> None:
    router, worker = begin(start)
    nonce = router.slots[0]
    router.start_call(worker, "leave", {"how": how})
    exited = router.exited(nonce)
    assert (exited.exit_code, exited.signal, exited.error_type) == (code, number, kind)
    assert exited.error_place.startswith(place) and bool(place) == bool(exited.error_place)
    assert exited.cause == ("KILLED" if number else "EXITED")
    assert f"leaving by {how}" in exited.last_lines


def test_sys_exit_in_a_tool_is_an_error_of_the_call_alone(start: Starter) -> None:
    router, worker = begin(start)
    answer = router.call(worker, "leave", {"how": "sys.exit"})
    assert answer.code != 0 and answer.error.type == "SystemExit"
    assert router.call(worker, "sizes").result == [], "the worker lives on"


def test_the_last_twenty_lines_are_kept(start: Starter) -> None:
    router, worker = begin(start)
    router.call(worker, "chat", {"lines": 30})
    nonce = router.slots[0]
    os.kill(worker.pid, signal.SIGKILL)
    exited = router.exited(nonce)
    assert [line.split()[1] for line in exited.last_lines] == [str(n) for n in range(10, 30)]
    assert {len(line) for line in exited.last_lines} == {256}
    assert exited.last_output == exited.last_lines[-1]


def test_long_arguments_reach_a_forked_and_a_spawned_worker(start: Starter) -> None:
    long = ["x" * 100_000, "é" * 50_000, "y" * 120_000]
    router = start("app:App", *long, source=LIFE).router
    router.desire(0)
    assert router.call(router.wait_worker(0), "sizes").result == [100_000, 50_000, 120_000]
    nonce = router.slots[0]
    router.desire(0, method=2)
    router.kill_worker(0, "TEST")
    assert router.call(router.wait_worker(0, not_nonce=nonce), "sizes").result == [100_000, 50_000, 120_000]


def test_a_start_that_fails_is_told_at_once_and_leaves_nothing_open(start: Starter) -> None:
    container = start(source=LIFE)
    router = container.router
    router.desire(0, backoff=0.01)
    worker = router.wait_worker(0)
    held = f"/proc/{container.pid}/fd"
    before = len(os.listdir(held))
    # No more descriptors: the channels of the next worker cannot be made.
    import resource

    resource.prlimit(container.pid, resource.RLIMIT_NOFILE, (before - 3, 8192))
    nonce = router.slots[0]
    os.kill(worker.pid, signal.SIGKILL)
    router.exited(nonce)
    failed = router.wait_told(lambda m: m.exited.error_type == "OSError", "a failed start", 3).exited
    assert failed.cause == "SETUP_FAILED" and failed.exit_code == 71
    eventually(lambda: sum(m.exited.error_type == "OSError" for m in list(router.told)) > 3, "several tries")
    resource.prlimit(container.pid, resource.RLIMIT_NOFILE, (8192, 8192))
    router.wait_worker(0, not_nonce=nonce)
    eventually(lambda: len(os.listdir(held)) <= before, "no descriptor was lost")


def test_batches_bound_how_many_start_at_a_time(start: Starter) -> None:
    source = """
        import os, sys, time
        from snakepit import tool

        class App:
            def setup(self, ctx):
                gate = os.path.join(os.environ["HOME"], "gate")
                while not os.path.exists(gate):
                    time.sleep(0.005)

            @tool
            def ping(self) -> str:
                return "pong"
    """
    container = start(source=source)
    router = container.router
    router.desire(*range(7), method=1, batch_size=3, batch_interval_ms=50, startup=30)

    def started() -> list[int]:
        return [m.started.incarnation.slot for m in list(router.told) if m.WhichOneof("kind") == "started"]

    eventually(lambda: len(started()) >= 3, "the first batch")
    router.desire(*range(7), method=1, batch_size=3, batch_interval_ms=50, startup=30)
    assert started() == [0, 1, 2]
    (container.folder / "gate").touch()
    for slot in range(7):
        router.wait_worker(slot)
    assert started() == list(range(7))


@pytest.mark.parametrize("method", [StartMethod.FORK, StartMethod.SPAWN])
def test_workers_die_first_when_memory_is_short_and_the_supervisor_last(start: Starter, method: StartMethod) -> None:
    container = start(source=LIFE)
    container.router.desire(0, method=method)
    worker = container.router.wait_worker(0)

    def score(pid: int) -> int:
        with open(f"/proc/{pid}/oom_score_adj") as file:
            return int(file.read())

    keeper = parent_of(worker.pid)
    assert score(worker.pid) > score(keeper) > score(container.pid)
    assert parent_of(keeper) == container.pid or score(parent_of(keeper)) == score(keeper)


# It stands for the moment between the interpreter's look at signals and its wait, in which a signal is not noticed.
MISSES_ONE = '''
    import signal
    from snakepit import tool

    class App:
        def setup(self, ctx) -> None:
            stop = signal.getsignal(signal.SIGTERM)
            came = []

            def miss_the_first(number, frame):
                came.append(number)
                if len(came) > 1:
                    stop(number, frame)

            signal.signal(signal.SIGTERM, miss_the_first)

        @tool
        def nothing(self) -> None:
            """A tool there must be."""

        def teardown(self) -> None:
            print("torn down", flush=True)
'''


def test_a_stop_that_was_not_noticed_is_said_again(start: Starter) -> None:
    router = start(source=MISSES_ONE).router
    router.desire(0, grace=20)
    router.wait_worker(0)
    nonce = router.slots[0]
    router.desire(grace=20)
    exited = router.exited(nonce)
    assert (exited.cause, exited.exit_code, exited.signal) == ("STOPPED", 0, 0)
    assert "torn down" in exited.last_lines
