"""Version 2 of the bridge at a real worker: methods, metadata and streams both ways."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from conftest import Bare
from fake_router import FakeRouter
from router_view import LAST, PIECE, Worker, eventually, piece
from snakepit.bridge import messages
from snakepit.bridge.protocol import FLAG_END_MESSAGE, FLAG_END_STREAM, FLAGS_WHOLE, Frame, Kind
from snakepit.errors import Code

Start = Callable[..., Bare]

# The part of a server that a worker sees: `echo` answers each message, `join` all of them, `many` by count.
SERVER = """
    import threading, time
    from pathlib import Path

    def note(text):
        with open("notes", "a") as file:
            file.write(text + "\\n")

    class Method:
        idempotent = False

        def __init__(self, path, run, client_streaming=False, server_streaming=False):
            self.path, self.run = path, run
            self.client_streaming, self.server_streaming = client_streaming, server_streaming

    def about(wire):
        text = repr((wire.request_id, wire.peer, list(wire.metadata), wire.session, wire.worker.slot, wire.deadline))
        wire.receive()
        wire.finish(0, answer=text.encode(), headers=[("h", "1"), ("h", "2"), ("h-bin", b"\\xff")],
                    trailers=[("t", "x"), ("t-bin", b"\\x00")])

    def echo(wire):
        wire.send_headers([("first", "yes")])
        note("echo begins")
        while (message := wire.receive()) is not None:
            wire.send(message)
        wire.finish(0, trailers=[("count", "n")])

    def join(wire):
        found = []
        while (message := wire.receive()) is not None:
            found.append(message)
        wire.finish(0, answer=b"|".join(found))

    def size(wire):
        total = 0
        while (message := wire.receive()) is not None:
            total += len(message)
        wire.finish(0, answer=str(total).encode())

    def status(wire):
        wire.finish(5, "nicht da: \\u00e4\\u00f6\\u00fc", [("why", "gone")])

    def silent(wire):
        pass

    def broken(wire):
        raise ValueError("boom")

    def twice(wire):
        wire.finish(0, answer=b"one")
        wire.finish(0, answer=b"two")

    def hold(wire):
        told = threading.Event()
        if wire.on_cancel(told.set):
            note("holds")
            told.wait(20)
        wire.finish(1 if wire.cancelled else 0, "held")

    def big(wire):
        wire.finish(0, answer=bytes(3_000_000), headers=[("h", "1")])

    def coroutine(wire):
        import asyncio

        async def wait():
            note("waits")
            try:
                await asyncio.sleep(20)
            finally:
                await asyncio.sleep(0)
                note("cleaned")

        try:
            wire.run_coroutine(wait())
        except asyncio.CancelledError:
            wire.finish(1, "told")

    def leave(wire):
        # Another thread still waits for the request when the call ends.
        threading.Thread(target=lambda: wire.receive(), daemon=True).start()
        while not wire.fed:
            time.sleep(0.001)
        wire.finish(0, answer=b"left")

    class Server:
        thread_safe = True
        file_descriptors = [b"file one"]

        def add_generic_rpc_handlers(self, handlers):
            pass

        methods = [
            Method("/t.T/about", about), Method("/t.T/echo", echo, True, True), Method("/t.T/join", join, True),
            Method("/t.T/size", size, True), Method("/t.T/status", status), Method("/t.T/silent", silent),
            Method("/t.T/broken", broken), Method("/t.T/twice", twice), Method("/t.T/hold", hold, True, True),
            Method("/t.T/big", big), Method("/t.T/coroutine", coroutine), Method("/t.T/leave", leave, True),
        ]

    server = Server()
"""


@pytest.fixture(params=[1, 3], ids=["Process", "Thread"])
def served(bare: Start, request: pytest.FixtureRequest) -> Bare:
    """A worker with the methods above, in both profiles."""
    return bare(SERVER, "app:server", slots=request.param)


@pytest.fixture
def router(served: Bare) -> FakeRouter:
    return served.router


@pytest.fixture
def worker(served: Bare) -> Worker:
    return served.worker


def number(worker: Worker, name: str) -> int:
    assert worker.data is not None
    return [method.path for method in worker.data.hello.methods].index("/t.T/" + name)


def start(router: FakeRouter, worker: Worker, name: str, payload: bytes = b"", flags: int = FLAGS_WHOLE) -> int:
    return router.start_call(worker, name, index=number(worker, name), payload=payload, flags=flags)


def test_hello_of_version_2(served: Bare, worker: Worker) -> None:
    assert worker.data is not None
    hello = worker.data.hello
    assert list(hello.versions) == [1, 2]
    assert hello.slots in (1, 3)
    echo = hello.methods[number(worker, "echo")]
    assert (echo.path, echo.client_streaming, echo.server_streaming) == ("/t.T/echo", True, True)
    assert list(hello.file_descriptors) == [b"file one"]
    assert not hello.tools


def test_what_a_method_is_told(router: FakeRouter, worker: Worker) -> None:
    metadata = {"k": b"v", "b-bin": b"\x00"}
    id = router.start_call(
        worker,
        "",
        index=number(worker, "about"),
        payload=b"",
        request_id="mine",
        peer="ipv4:1.2.3.4:5",
        metadata=metadata,
    )
    answer = router.finish(worker, id)
    assert answer.messages == [
        repr(("mine", "ipv4:1.2.3.4:5", [("k", "v"), ("b-bin", b"\x00")], None, 0, None)).encode()
    ]
    assert [(e.key, e.value) for e in answer.info.headers] == [("h", b"1"), ("h", b"2"), ("h-bin", b"\xff")]
    assert [(e.key, e.value) for e in answer.info.trailers] == [("t", b"x"), ("t-bin", b"\x00")]
    assert [frame.kind for frame in answer.frames] == [Kind.ACCEPTED, Kind.FINISH]


def test_a_stream_both_ways_is_answered_as_it_comes(router: FakeRouter, worker: Worker) -> None:
    id = start(router, worker, "echo", b"one", LAST)
    router.wait_frames(worker, id, Kind.MESSAGE, 1)
    piece(worker, id, b"tw", PIECE)
    piece(worker, id, b"o", LAST)
    router.wait_frames(worker, id, Kind.MESSAGE, 2)
    piece(worker, id, b"", LAST)
    router.wait_frames(worker, id, Kind.MESSAGE, 3)
    piece(worker, id, b"", FLAG_END_STREAM)
    answer = router.finish(worker, id)
    assert answer.messages == [b"one", b"two", b""]
    assert [frame.kind for frame in answer.frames[:3]] == [Kind.ACCEPTED, Kind.HEADERS, Kind.MESSAGE]
    headers = messages.HeadersInfo.FromString(answer.frames[1].ext)
    assert [(e.key, e.value) for e in headers.metadata] == [("first", b"yes")]
    assert [(e.key, e.value) for e in answer.info.trailers] == [("count", b"n")]


@pytest.mark.parametrize(
    "frames",
    [
        [(b"", FLAG_END_STREAM)],
        [(b"a", FLAGS_WHOLE)],
        [(b"", 0), (b"a", LAST), (b"b", FLAGS_WHOLE)],
        [(b"a", LAST), (b"", LAST), (b"", FLAG_END_STREAM)],
        [(b"a", PIECE), (b"b", PIECE), (b"c", LAST), (b"d", PIECE), (b"e", FLAGS_WHOLE)],
    ],
)
def test_requests_of_many_messages(router: FakeRouter, worker: Worker, frames: list[tuple[bytes, int]]) -> None:
    id = start(router, worker, "join", *frames[0])
    for payload, flags in frames[1:]:
        piece(worker, id, payload, flags)
    expected, message = [], b""
    for payload, flags in frames:
        message += payload
        if flags & FLAG_END_MESSAGE:
            expected.append(message)
            message = b""
    assert router.finish(worker, id).messages == [b"|".join(expected)]


def test_a_long_request_gets_its_credit_back(router: FakeRouter, worker: Worker) -> None:
    id = start(router, worker, "size", b"", 0)
    credit, sent, seen = 1 << 20, 0, 0
    while sent < 5 << 20:
        if credit < 100_000:
            eventually(lambda seen=seen: len(windows(worker, id)) > seen, "a Window")  # type: ignore[misc]
            new = windows(worker, id)[seen:]
            seen += len(new)
            credit += sum(new)
            continue
        piece(worker, id, bytes(100_000), LAST if sent % 3 else PIECE)
        credit -= 100_000
        sent += 100_000
    piece(worker, id, b"", FLAGS_WHOLE)
    assert router.finish(worker, id).messages == [str(sent).encode()]


def windows(worker: Worker, id: int) -> list[int]:
    return [frame.fixed[0] for frame in list(worker.frames[id]) if frame.kind == Kind.WINDOW]


def test_a_router_beyond_its_credit_breaks_the_connection(bare: Start) -> None:
    served = bare(SERVER, "app:server", slots=2)
    worker, data = served.worker, served.worker.data
    assert data is not None
    id = start(served.router, worker, "hold", b"", 0)
    served.router.wait_frames(worker, id, Kind.ACCEPTED)
    # Its handler takes nothing, but another thread reads.
    for _ in range(5):
        piece(worker, id, bytes(250_000), LAST)
    eventually(lambda: data.goodbye is not None, "Goodbye")
    assert "beyond" in data.goodbye.message or "above its credit" in data.goodbye.message
    eventually(lambda: worker.connected and worker.data is not data, "the worker is back")
    assert served.router.finish(worker, start(served.router, worker, "join", b"x")).messages == [b"x"]


def test_statuses_and_metadata_of_failures(router: FakeRouter, worker: Worker) -> None:
    answer = router.finish(worker, start(router, worker, "status"))
    assert (answer.code, answer.info.message) == (Code.NOT_FOUND, "nicht da: äöü")
    assert [(e.key, e.value) for e in answer.info.trailers] == [("why", b"gone")]
    silent = router.finish(worker, start(router, worker, "silent"))
    assert (silent.code, silent.outcome) == (Code.INTERNAL, 0)
    broken = router.finish(worker, start(router, worker, "broken"))
    assert (broken.code, broken.info.message) == (Code.UNKNOWN, "ValueError: boom")
    twice = router.finish(worker, start(router, worker, "twice"))
    assert (twice.code, twice.messages) == (0, [b"one"])
    assert router.finish(worker, start(router, worker, "join")).messages == [b""]
    assert sum(frame.kind == Kind.FINISH for frame in worker.frames[4]) == 1


def test_a_large_answer_has_its_metadata_before_it(router: FakeRouter, worker: Worker) -> None:
    id = start(router, worker, "big")
    router.wait_frames(worker, id, Kind.MESSAGE, 4)
    assert worker.control is not None
    worker.control.send(Frame(Kind.WINDOW, 0, id, (4_000_000,)))
    answer = router.finish(worker, id)
    assert answer.messages == [bytes(3_000_000)]
    assert answer.frames[1].kind == Kind.HEADERS and not answer.info.headers


@pytest.mark.parametrize("name", ["hold", "echo", "coroutine"])
def test_a_cancel_reaches_whatever_a_method_waits_for(served: Bare, name: str) -> None:
    router, worker = served.router, served.worker
    id = start(router, worker, name, b"", FLAGS_WHOLE if name == "coroutine" else 0)
    eventually(served.notes, "it runs")
    router.cancel(worker, id)
    answer = router.finish(worker, id, 5)
    assert answer.code == Code.CANCELLED
    if name == "coroutine":
        assert (answer.info.message, served.notes()[-1]) == ("told", "cleaned")
    assert router.finish(worker, start(router, worker, "join", b"x")).messages == [b"x"]


def test_finish_may_come_before_the_request_has_ended(router: FakeRouter, worker: Worker) -> None:
    for _ in range(5):
        id = start(router, worker, "leave", b"", 0)
        assert router.finish(worker, id).messages == [b"left"]
        piece(worker, id, b"late", LAST)
    assert router.finish(worker, start(router, worker, "join", b"x")).messages == [b"x"]


def test_version_1_gets_no_headers(bare: Start) -> None:
    served = bare(SERVER, "app:server", version=1)
    router, worker = served.router, served.worker
    answer = router.finish(worker, start(router, worker, "about"))
    assert answer.code == 0 and not answer.info.headers and len(answer.info.trailers) == 2
    echoed = router.finish(worker, start(router, worker, "echo", b"x"))
    assert [frame.kind for frame in echoed.frames] == [Kind.ACCEPTED, Kind.MESSAGE, Kind.FINISH]


def test_descriptors_that_do_not_fit_are_left_out(bare: Start) -> None:
    served = bare(SERVER.replace('[b"file one"]', "[bytes(400_000)]"), "app:server")
    assert served.worker.data is not None
    assert not served.worker.data.hello.file_descriptors and len(served.worker.data.hello.methods) == 12


def test_interruptible(bare: Start) -> None:
    served = bare(
        """
        import time
        from snakepit import tool
        from snakepit.errors import Interrupted

        def note(text):
            with open("notes", "a") as file:
                file.write(text + "\\n")

        class App:
            @tool(interruptible=True)
            def sleep(self, seconds: float) -> str:
                note("sleeps")
                try:
                    try:
                        time.sleep(seconds)
                    except Exception:
                        return "never"
                finally:
                    note("cleaned")
                return "slept"

            @tool(interruptible=True)
            def spin(self):
                n = 0
                while True:
                    yield n
                    note("spins")
                    while True:
                        n += 1

            @tool
            def deaf(self, ctx) -> bool:
                note("deaf")
                while not ctx.cancelled:
                    time.sleep(0.001)
                time.sleep(0.05)
                return True
        """
    )
    router, worker = served.router, served.worker
    assert router.call(worker, "sleep", {"seconds": 0.0}).result == "slept"
    before = time.monotonic()
    id = router.start_call(worker, "sleep", {"seconds": 60.0})
    eventually(lambda: served.notes()[-1:] == ["sleeps"], "it sleeps")
    router.cancel(worker, id)
    assert router.finish(worker, id).code == Code.CANCELLED
    assert time.monotonic() - before < 30 and served.notes()[-1] == "cleaned"
    id = router.start_call(worker, "spin", stream=True)
    eventually(lambda: served.notes()[-1] == "spins", "it spins")
    router.cancel(worker, id)
    assert router.finish(worker, id).code == Code.CANCELLED
    # A handler that did not ask for it is not touched.
    id = router.start_call(worker, "deaf")
    eventually(lambda: served.notes()[-1] == "deaf", "it runs")
    router.cancel(worker, id)
    assert router.finish(worker, id).result is True
    assert router.call(worker, "sleep", {"seconds": 0.0}).result == "slept"
