"""What dies, and what must be left: workers, their daemons, keepers, the zygote, the router, the supervisor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from conftest import Starter
from container import alive
from fake_router import FakeRouter
from router_view import Worker, eventually
from snakepit.bridge import messages
from snakepit.bridge.protocol import Kind

DAEMONS = '''
    import os, signal, subprocess, time
    from snakepit import tool

    class App:
        def __init__(self, *args):
            self.args = list(args)

        @tool
        def start(self) -> dict[str, int]:
            """A plain child, one in its own session, and a double-forked daemon that ignores signals."""
            plain = subprocess.Popen(["sleep", "1000"])
            apart = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            read, write = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    os.write(write, str(os.getpid()).encode())
                    os.close(write)
                    while True:
                        time.sleep(1000)
                os._exit(0)
            os.close(write)
            os.wait()
            return {"plain": plain.pid, "apart": apart.pid, "daemon": int(os.read(read, 20))}

        @tool
        def exit_codes(self) -> list[int]:
            return [subprocess.run(["/bin/sh", "-c", f"exit {n % 7}"]).returncode for n in range(40)]

        @tool
        def orphan(self) -> int:
            """Start a process that ends as an orphan a moment later."""
            out = subprocess.run(["/bin/sh", "-c", "sleep 0.05 & echo $!"], capture_output=True, check=True)
            return int(out.stdout)

        @tool
        def whoami(self) -> list[int]:
            return [os.getpid(), os.getppid()]

        @tool
        def arguments(self) -> list[str]:
            return self.args

        @tool
        def nap(self, seconds: float) -> str:
            time.sleep(seconds)
            return "rested"

        @tool
        def leave(self, code: int) -> None:
            print("the last line")
            os._exit(code)
'''


def pids(router: FakeRouter, worker: Worker) -> list[int]:
    answer = router.call(worker, "start").result
    return [answer["plain"], answer["apart"], answer["daemon"]]


def test_everything_a_dead_worker_started_is_gone_and_others_are_untouched(start: Starter) -> None:
    router = start(source=DAEMONS).router
    router.desire(0, 1)
    first, other = router.wait_worker(0), router.wait_worker(1)
    router.open_session(other, "kept", 9)
    mine, theirs = pids(router, first), pids(router, other)
    nonce = router.slots[0]
    os.kill(first.pid, signal.SIGKILL)
    router.exited(nonce)
    assert not [pid for pid in mine if alive(pid)], "WorkerExited came before all was gone"
    assert all(alive(pid) for pid in theirs)
    assert router.call(other, "whoami", epoch=9).outcome == 0
    router.wait_worker(0, not_nonce=nonce)
    router.desire(0)
    router.exited(router.slots[1])
    assert not [pid for pid in theirs if alive(pid)], "a stopped worker left processes"


def test_exit_codes_stay_right_and_orphans_are_reaped(start: Starter) -> None:
    router = start(source=DAEMONS).router
    router.desire(0)
    worker = router.wait_worker(0)
    orphans = [router.call(worker, "orphan").result for _ in range(5)]
    assert router.call(worker, "exit_codes").result == [n % 7 for n in range(40)]
    eventually(lambda: not [pid for pid in orphans if Path(f"/proc/{pid}").exists()], "orphans are reaped")


def test_a_killed_keeper_takes_everything_with_it(start: Starter) -> None:
    router = start(source=DAEMONS).router
    router.desire(0, 1)
    worker, other = router.wait_worker(0), router.wait_worker(1)
    mine, theirs = pids(router, worker), pids(router, other)
    pid, keeper = router.call(worker, "whoami").result
    nonce = router.slots[0]
    os.kill(keeper, signal.SIGKILL)
    assert router.exited(nonce).cause == "KILLED"
    assert not [p for p in [pid, *mine] if alive(p)]
    assert all(alive(p) for p in theirs)
    router.wait_worker(0, not_nonce=nonce)


def test_a_killed_zygote_is_replaced_and_workers_live_on(start: Starter) -> None:
    container = start(source=DAEMONS)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    keeper = router.call(worker, "whoami").result[1]
    stat = Path(f"/proc/{keeper}/stat").read_text()
    zygote = int(stat.rpartition(")")[2].split()[1])
    assert zygote != container.pid
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: not alive(zygote), "the zygote is gone")
    assert router.call(worker, "whoami").result[1] == keeper
    router.desire(0, 1)
    router.wait_worker(1)
    nonce = router.slots[0]
    os.kill(worker.pid, signal.SIGKILL)
    router.wait_worker(0, not_nonce=nonce)
    assert router.exited(nonce).cause == "KILLED"


def test_restarts_back_off_and_reports_say_why(start: Starter) -> None:
    router = start(source=DAEMONS).router
    router.desire(0)
    worker = router.wait_worker(0)
    nonce = router.slots[0]
    router.start_call(worker, "leave", {"code": 3})
    exited = router.exited(nonce)
    assert (exited.exit_code, exited.signal, exited.cause, exited.last_output) == (3, 0, "EXITED", "the last line")
    second = router.wait_worker(0, not_nonce=nonce)
    nonce = router.slots[0]
    begin = time.monotonic()
    router.start_call(second, "leave", {"code": 0})
    router.exited(nonce)
    router.wait_worker(0, not_nonce=nonce)
    assert time.monotonic() - begin > 0.9, "the second death within 10 s must wait for 1 s"


def test_kill_order_names_its_cause_and_hits_only_its_incarnation(start: Starter) -> None:
    router = start(source=DAEMONS).router
    router.desire(0)
    worker = router.wait_worker(0)
    router.start_call(worker, "nap", {"seconds": 60})
    nonce = router.slots[0]
    router.kill_worker(0, "CALL_TIMEOUT")
    assert router.exited(nonce).cause == "CALL_TIMEOUT"
    router.wait_worker(0, not_nonce=nonce)
    current = router.slots[0]
    router.slots[0] = nonce
    router.kill_worker(0, "STALE")
    router.slots[0] = current
    assert router.call(router.workers[current], "arguments").outcome == 0


def test_router_killed_and_back_one_hello_with_sessions(start: Starter) -> None:
    container = start(source=DAEMONS)
    router = container.router
    router.desire(0, 1)
    first, second = router.wait_worker(0), router.wait_worker(1)
    router.open_session(first, "alice", 11)
    router.open_session(first, "bob", 12)
    router.close_session(first, 12)
    router.open_session(second, "carol", 13)
    router.start_call(second, "nap", {"seconds": 1.5}, epoch=13)
    eventually(lambda: second.frames[1], "the nap was accepted")
    pid = first.pid
    slots = dict(router.slots)
    router.kill()
    router = container.restart_router()
    router.desire(0, 1)
    hello = eventually(lambda: next((h for h in router.hellos if h.supervisor.workers), None), "a Hello")
    states = {state.incarnation.slot: state for state in hello.supervisor.workers}
    assert {slot: state.incarnation.nonce for slot, state in states.items()} == slots
    assert [(s.name, s.epoch) for s in states[0].sessions] == [("alice", 11)]
    assert [(s.name, s.epoch) for s in states[1].sessions] == [("carol", 13)]
    assert not states[0].busy
    assert states[1].busy and states[1].busy_epoch == 13
    assert hello.supervisor.adapter.phase == 2
    worker = router.wait_worker(0)
    assert worker.pid == pid
    assert router.call(worker, "whoami", epoch=11).outcome == 0
    assert router.call(worker, "whoami", epoch=12).outcome == 1
    assert router.open_session(worker, "alice", 11).fixed == (11, 2), "the floor holds for every router"
    # The busy worker says on CONTROL that it lives, and comes back with its session when the handler has returned.
    busy = router.wait_worker(1)
    assert router.call(busy, "whoami", epoch=13).outcome == 0


def test_lost_lives_are_told_to_the_next_router(start: Starter) -> None:
    container = start(source=DAEMONS)
    router = container.router
    router.desire(0, 1)
    first, second = router.wait_worker(0), router.wait_worker(1)
    router.open_session(first, "died with a router", 11)
    router.open_session(first, "lives again", 12)
    router.open_session(second, "drained", 13)
    router.open_session(second, "died without a router", 14)
    drained = {"session": {"name": "drained", "epoch": 13}, "cause": "DRAINED"}
    drained["incarnation"] = {"slot": 1, "nonce": router.slots[1]}
    router.order(messages.ToSupervisor(lost={"lives": [drained]}))
    nonce, other = router.slots[0], router.slots[1]
    router.kill_worker(0, "STUCK")
    assert router.exited(nonce).cause == "STUCK"
    router.open_session(router.wait_worker(0, not_nonce=nonce), "lives again", 22)
    router.wait_told(lambda m: m.session.session.epoch == 22, "the session is mirrored")
    router.kill()
    os.kill(second.pid, signal.SIGKILL)
    eventually(lambda: "a worker ended slot=1" in container.output(), "the supervisor saw it")
    router = container.restart_router()
    hello = eventually(lambda: next((h for h in router.hellos if h.supervisor.workers), None), "a Hello")
    assert [s.name for w in hello.supervisor.workers for s in w.sessions] == ["lives again"]
    lost = {x.session.name: x for x in hello.supervisor.lost}
    assert {name: (x.session.epoch, x.cause, x.begun_again) for name, x in lost.items()} == {
        "died with a router": (11, "STUCK", False),
        "lives again": (12, "STUCK", True),
        "drained": (13, "DRAINED", False),
        "died without a router": (14, "KILLED", False),
    }
    assert {name: x.incarnation.nonce for name, x in lost.items() if name.startswith("died")} == {
        "died with a router": nonce,
        "died without a router": other,
    }
    assert not hello.supervisor.continued


def test_more_sessions_than_a_hello_holds(start: Starter) -> None:
    container = start(source=DAEMONS)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    count = 3000
    for epoch in range(1, count + 1):
        router.open_session(worker, f"{epoch:0>128}", epoch)
    router.wait_told(lambda m: m.session.session.epoch == count, "all are mirrored")
    router.kill()
    router = container.restart_router()
    router.wait_told(lambda m: m.HasField("more") and not m.more.continued, "the last part")
    parts = [next(h for h in router.hellos if h.supervisor.workers).supervisor]
    parts += [m.more for m in router.told if m.HasField("more")]
    epochs = [s.epoch for part in parts for w in part.workers for s in w.sessions]
    assert sorted(epochs) == list(range(1, count + 1))


def test_supervisor_killed_ends_everything(start: Starter) -> None:
    container = start(source=DAEMONS)
    router = container.router
    router.desire(0)
    started = pids(router, router.wait_worker(0))
    everything = container.descendants()
    assert set(started) <= set(everything)
    assert container.process is not None
    container.process.kill()
    container.process.wait()
    eventually(lambda: not [pid for pid in everything if alive(pid)], "everything is gone", 2)


def test_sigterm_drains_with_the_router(start: Starter) -> None:
    container = start(source=DAEMONS, drain=20.0)
    router = container.router
    router.desire(0, 1)
    idle, busy = router.wait_worker(0), router.wait_worker(1)
    left = container.descendants()
    id = router.start_call(busy, "nap", {"seconds": 1.0})
    eventually(lambda: busy.frames[id], "accepted")
    assert container.process is not None
    container.process.send_signal(signal.SIGTERM)
    drain = router.wait_told(lambda m: m.WhichOneof("kind") == "drain", "DrainRequested").drain
    assert 15_000 < drain.deadline_ms <= 20_000
    nonces = dict(router.slots)
    router.desire(1)
    assert router.exited(nonces[0]).cause == "STOPPED"
    assert router.finish(busy, id).result == "rested"
    router.desire()
    assert container.process.wait(10) == 0
    eventually(lambda: not [pid for pid in left if alive(pid)], "nothing is left", 3)
    del idle


def test_sigterm_without_a_router_waits_for_the_running_handler(start: Starter) -> None:
    container = start(source=DAEMONS, drain=20.0)
    router = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    id = router.start_call(worker, "nap", {"seconds": 1.2})
    eventually(lambda: worker.frames[id], "accepted")
    router.kill()
    begin = time.monotonic()
    assert container.terminate() == 0
    assert 0.8 < time.monotonic() - begin < 10, "long before the drain would have ended"
    container.restart_router()


def test_a_worker_that_does_not_stop_is_killed_after_its_grace(start: Starter) -> None:
    container = start(source=DAEMONS, drain=4.0)
    router = container.router
    router.desire(0, grace=0.3)
    worker = router.wait_worker(0)
    id = router.start_call(worker, "nap", {"seconds": 60})
    eventually(lambda: worker.frames[id], "accepted")
    nonce = router.slots[0]
    begin = time.monotonic()
    router.desire(grace=0.3)
    exited = router.exited(nonce)
    assert (exited.cause, exited.signal) == ("STOPPED", signal.SIGKILL)
    assert 0.2 < time.monotonic() - begin < 20, "long before the handler would have ended"


def test_sigterm_past_its_deadline_ends_a_stuck_worker(start: Starter) -> None:
    container = start(source=DAEMONS, drain=2.0)
    router = container.router
    router.desire(0, grace=0.3)
    router.start_call(router.wait_worker(0), "nap", {"seconds": 60})
    begin = time.monotonic()
    assert container.terminate() == 0
    assert time.monotonic() - begin < 20, "long before the handler would have ended"


def test_pool_arguments_reach_the_adapter_and_ping_is_answered(start: Starter) -> None:
    router = start("app:App", "--flag", "a b", source=DAEMONS).router
    router.desire(0)
    worker = router.wait_worker(0)
    assert router.call(worker, "arguments").result == ["--flag", "a b"]
    assert worker.control is not None and router.supervisor is not None
    from snakepit.bridge.protocol import Frame

    for connection in (worker.control, router.supervisor):
        connection.send(Frame(Kind.PING, fixed=(77,)))
        eventually(lambda c=connection: c.pongs == [77], "Pong")
