"""Profile Thread at a real worker: what overlaps, what keeps its order, and that nobody waits for strangers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Bare, Starter
from fake_router import FakeRouter
from router_view import Worker, eventually, request
from snakepit.bridge import messages
from snakepit.bridge.protocol import Frame, GoodbyeReason, Kind, Outcome
from snakepit.errors import Code

Start = Callable[..., Bare]
SLOTS = 4

APP = """
    import asyncio, os, threading, time
    from snakepit import Context, tool

    lock = threading.Lock()

    def note(text):
        with lock, open("notes", "a") as file:
            file.write(text + "\\n")

    def wait_for(file):
        while not os.path.exists(file):
            time.sleep(0.001)

    class App:
        thread_safe = True

        def session_start(self, ctx):
            note(f"start {ctx.session.name}")
            if ctx.session.name == "slow":
                wait_for("open-slow")
            ctx.session.state["n"] = 0

        def session_end(self, ctx):
            note(f"end {ctx.session.name}")
            if ctx.session.name == "slow":
                wait_for("close-slow")

        def teardown(self):
            note("teardown")

        @tool
        def nap(self, seconds: float) -> list[object]:
            begun = time.monotonic_ns()
            time.sleep(seconds)
            return [begun, time.monotonic_ns(), threading.get_ident()]

        @tool
        async def anap(self, seconds: float) -> list[object]:
            begun = time.monotonic_ns()
            await asyncio.sleep(seconds)
            return [begun, time.monotonic_ns(), threading.get_ident(), id(asyncio.get_running_loop())]

        @tool
        def gate(self, file: str) -> str:
            note(f"at {file}")
            wait_for(file)
            return file

        @tool
        def hold(self, ctx: Context, label: str) -> str:
            note(f"holds {label}")
            while not ctx.cancelled:
                time.sleep(0.001)
            ctx.raise_if_cancelled()

        @tool
        async def ahold(self, label: str) -> str:
            note(f"holds {label}")
            try:
                await asyncio.sleep(20)
            finally:
                await asyncio.sleep(0)
                note(f"cleaned {label}")

        @tool
        def count(self, ctx: Context, label: str) -> int:
            n = ctx.session.state["n"]
            note(f"{ctx.session.name} {label}")
            time.sleep(0.002)
            ctx.session.state["n"] = n + 1
            return n

        @tool
        async def leave(self) -> None:
            raise SystemExit(3)

        @tool
        def size(self, payload: bytes) -> int:
            return len(payload)

        @tool
        def busy(self) -> list[int]:
            return [1]
"""


@pytest.fixture
def crowd(bare: Start) -> Bare:
    return bare(APP, slots=SLOTS)


@pytest.fixture
def router(crowd: Bare) -> FakeRouter:
    return crowd.router


@pytest.fixture
def worker(crowd: Bare) -> Worker:
    return crowd.worker


def open_frame(name: str, epoch: int) -> Frame:
    return Frame(Kind.SESSION_OPEN, 0, 0, (epoch,), messages.SessionInfo(name=name).SerializeToString())


def send(worker: Worker, frame: Frame) -> None:
    assert worker.data is not None
    worker.data.send(frame)


def opened(worker: Worker, epoch: int) -> list[tuple[int, ...]]:
    return [frame.fixed for frame in list(worker.sessions) if frame.fixed[0] == epoch]


@pytest.mark.parametrize("tool", ["nap", "anap"])
def test_calls_overlap(router: FakeRouter, worker: Worker, tool: str) -> None:
    ids = [router.start_call(worker, tool, {"seconds": 0.2}) for _ in range(SLOTS)]
    results = [router.finish(worker, id).result for id in ids]
    # By the intervals that the handlers recorded: at some time all of them ran.
    assert max(result[0] for result in results) < min(result[1] for result in results)
    threads = {result[2] for result in results}
    if tool == "anap":
        assert len(threads) == 1 and len({result[3] for result in results}) == 1, "one loop, in one thread"
    else:
        assert len(threads) == SLOTS


def test_no_more_than_slots_run(crowd: Bare, router: FakeRouter, worker: Worker) -> None:
    ids = [router.start_call(worker, "gate", {"file": f"go{i}"}) for i in range(SLOTS + 2)]
    eventually(lambda: len(crowd.notes()) == SLOTS, "all slots are taken")
    assert len(crowd.process.page.read()) == SLOTS
    (crowd.folder / "go0").touch()
    router.finish(worker, ids[0])
    eventually(lambda: len(crowd.notes()) == SLOTS + 1, "the next one has its turn")
    for i in range(SLOTS + 2):
        (crowd.folder / f"go{i}").touch()
    assert [router.finish(worker, id).result for id in ids] == [f"go{i}" for i in range(SLOTS + 2)]
    eventually(lambda: crowd.process.page.read() == [], "nothing runs")


def test_the_calls_of_a_session_keep_their_order(crowd: Bare, router: FakeRouter, worker: Worker) -> None:
    names = ["ada", "bob", "eve"]
    for epoch, name in enumerate(names, 10):
        send(worker, open_frame(name, epoch))
    ids: dict[int, list[int]] = {}
    for turn in range(12):
        for epoch in range(10, 13):
            id = router.start_call(worker, "count", {"label": str(turn)}, epoch=epoch)
            ids.setdefault(epoch, []).append(id)
    for made in ids.values():
        assert [router.finish(worker, id).result for id in made] == list(range(12))
    for name in names:
        assert [note for note in crowd.notes() if note.startswith(name)] == [f"{name} {turn}" for turn in range(12)]


def test_a_slow_session_start_blocks_only_its_own(crowd: Bare, router: FakeRouter, worker: Worker) -> None:
    send(worker, open_frame("slow", 20))
    own = router.start_call(worker, "count", {"label": "own"}, epoch=20)
    eventually(lambda: "start slow" in crowd.notes(), "it starts")
    assert router.open_session(worker, "quick", 21).fixed == (21, 0)
    assert router.call(worker, "count", {"label": "x"}, epoch=21).result == 0
    assert router.call(worker, "busy").result == [1]
    assert not worker.frames[own] and not opened(worker, 20)
    (crowd.folder / "open-slow").touch()
    assert router.finish(worker, own).result == 0
    assert opened(worker, 20) == [(20, 0)]


def test_an_old_life_has_ended_before_the_next_begins(crowd: Bare, router: FakeRouter, worker: Worker) -> None:
    (crowd.folder / "open-slow").touch()
    router.open_session(worker, "slow", 30)
    send(worker, Frame(Kind.SESSION_CLOSE, 0, 0, (30, 3)))
    send(worker, open_frame("slow", 31))
    id = router.start_call(worker, "count", {"label": "new"}, epoch=31)
    stale = router.start_call(worker, "count", {"label": "stale"}, epoch=30)
    eventually(lambda: "end slow" in crowd.notes(), "it ends")
    assert router.call(worker, "busy").result == [1], "others go on meanwhile"
    assert crowd.notes().count("start slow") == 1
    (crowd.folder / "close-slow").touch()
    assert router.finish(worker, id).result == 0
    assert router.finish(worker, stale).outcome == Outcome.REFUSED_SESSION
    assert crowd.notes() == ["start slow", "end slow", "start slow", "slow new"]


def test_a_cancel_reaches_the_right_call(crowd: Bare, router: FakeRouter, worker: Worker) -> None:
    ids = {label: router.start_call(worker, "hold", {"label": label}) for label in ("a", "b")}
    ids |= {label: router.start_call(worker, "ahold", {"label": label}) for label in ("c", "d")}
    eventually(lambda: len(crowd.notes()) == 4, "all of them run")
    for label in ("b", "c"):
        router.cancel(worker, ids[label])
        assert router.finish(worker, ids[label], 5).code == Code.CANCELLED
    assert "cleaned c" in crowd.notes() and "cleaned d" not in crowd.notes()
    assert [frame.kind for frame in worker.frames[ids["a"]]] == [Kind.ACCEPTED]
    for label in ("a", "d"):
        router.cancel(worker, ids[label])
        assert router.finish(worker, ids[label], 5).code == Code.CANCELLED


def test_requests_in_pieces_side_by_side(router: FakeRouter, worker: Worker) -> None:
    assert worker.data is not None
    bodies = {}
    for _ in range(SLOTS):
        id = router.start_call(worker, "size", payload=b"", flags=0)
        bodies[id] = request("size", {"payload": bytes(9)})
    # Every thread waits for pieces now, and one of them reads for all.
    for at in range(40):
        for id, body in bodies.items():
            if at < len(body):
                last = at == len(body) - 1
                worker.data.send(Frame(Kind.MESSAGE, 7 if last else 1, id, payload=body[at : at + 1]))
    finished = [router.finish(worker, id) for id in bodies]
    assert [answer.result for answer in finished] == [9] * SLOTS


def test_a_broken_link_is_mended_while_handlers_run_on(crowd: Bare, router: FakeRouter, worker: Worker) -> None:
    router.open_session(worker, "ada", 40)
    held = router.start_call(worker, "gate", {"file": "go"}, epoch=40)
    pieces = router.start_call(worker, "size", payload=b"x", flags=1)
    for id in (held, pieces):
        router.wait_frames(worker, id, Kind.ACCEPTED)
    old = worker.data
    assert old is not None
    old.sock.shutdown(2)
    eventually(lambda: worker.connected and worker.data is not old, "a new pair, though a handler runs")
    assert router.call(worker, "busy").result == [1]
    # The next call of the session waits for the one that runs on.
    after = router.start_call(worker, "count", {"label": "after"}, epoch=40)
    assert router.call(worker, "busy").result == [1]
    assert not worker.frames[after]
    (crowd.folder / "go").touch()
    assert router.finish(worker, after).result == 0
    assert [router.call(worker, "busy").result for _ in range(SLOTS)] == [[1]] * SLOTS


def test_an_async_tool_cannot_end_the_loop(router: FakeRouter, worker: Worker) -> None:
    answer = router.call(worker, "leave")
    assert (answer.code, answer.error.type) == (Code.UNKNOWN, "SystemExit")
    assert router.call(worker, "anap", {"seconds": 0.0}).code == 0


def test_a_stop_waits_for_handlers_and_refuses_nothing_silently(
    crowd: Bare, router: FakeRouter, worker: Worker
) -> None:
    router.open_session(worker, "ada", 50)
    running = router.start_call(worker, "gate", {"file": "go"})
    eventually(lambda: "at go" in crowd.notes(), "it runs")
    crowd.process.process.send_signal(signal.SIGTERM)
    late = router.start_call(worker, "busy")
    (crowd.folder / "go").touch()
    assert router.finish(worker, running).result == "go"
    assert crowd.process.process.wait(10) == 0
    assert worker.data is not None and worker.data.goodbye.reason == GoodbyeReason.SHUTDOWN
    kinds = [frame.kind for frame in worker.frames[late]]
    assert kinds in ([], [Kind.ACCEPTED, Kind.FINISH]), "begun and ended, or not begun"
    assert crowd.notes()[-2:] == ["end ada", "teardown"]


def test_stacks_of_all_threads_on_a_signal(crowd: Bare, router: FakeRouter, worker: Worker) -> None:
    id = router.start_call(worker, "gate", {"file": "go"})
    eventually(lambda: "at go" in crowd.notes(), "it runs")
    crowd.process.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "in wait_for" in crowd.process.log.read_text(), "the stack of a handler's thread")
    (crowd.folder / "go").touch()
    assert router.finish(worker, id).code == 0


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (APP.replace("thread_safe = True", "pass"), "ThreadSafetyNotDeclared", "thread_safe = True in App"),
        (
            APP.replace("@tool\n        def nap", "@tool(interruptible=True)\n        def nap"),
            "DeclarationError",
            "Process",
        ),
    ],
    ids=["undeclared", "interruptible"],
)
def test_what_needs_another_profile_is_refused(
    start: Starter, monkeypatch: pytest.MonkeyPatch, source: str, kind: str, words: str
) -> None:
    monkeypatch.setenv("SNAKEPIT_SLOTS", "4")
    container = start(source=source)
    container.router.desire(0)

    def failed(message: Any) -> bool:
        return bool(message.adapter.phase == 3)

    told = container.router.wait_told(failed, "the import failed").adapter
    assert told.error_type.rpartition(".")[2] == kind and words in told.error_message
