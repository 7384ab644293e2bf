"""Within the life of a session a call whose request id the caller chose runs once, whatever its answer meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from conftest import Bare
from router_view import Answer, eventually
from snakepit.bridge.protocol import Kind
from snakepit.errors import Code

Start = Callable[..., Bare]

APP = """
    import os, time
    from snakepit import Context, tool

    class App:
        thread_safe = True

        def session_start(self, ctx):
            ctx.session.state["runs"] = 0

        def ran(self, ctx):
            ctx.session.state["runs"] += 1
            with open("notes", "a") as file:
                file.write(ctx.request_id + "\\n")
            return ctx.session.state["runs"]

        @tool
        def add(self, ctx: Context, size: int = 0) -> list[object]:
            return [self.ran(ctx), bytes(size)]

        @tool
        def fail(self, ctx: Context) -> None:
            raise KeyError(self.ran(ctx))

        @tool
        def many(self, ctx: Context, count: int = 3):
            for i in range(count):
                yield [self.ran(ctx), i]

        @tool
        def gate(self, ctx: Context, file: str) -> int:
            n = self.ran(ctx)
            while not os.path.exists(file):
                time.sleep(0.001)
            return n

        @tool
        def endless(self, ctx: Context):
            while True:
                yield self.ran(ctx)
                time.sleep(0.002)
"""


@pytest.fixture(params=[1, 3], ids=["Process", "Thread"])
def app(bare: Start, request: pytest.FixtureRequest) -> Bare:
    started = bare(APP, slots=request.param)
    started.router.open_session(started.worker, "ada", 5)
    return started


def call(app: Bare, tool: str, id: str = "", arguments: dict[str, Any] | None = None, **more: Any) -> Answer:
    return app.router.call(app.worker, tool, arguments or {}, epoch=5, request_id=id, **more)


def test_a_repeat_gets_the_kept_answer(app: Bare) -> None:
    first = call(app, "add", "one")
    again = call(app, "add", "one")
    assert first.result == again.result == [1, b""]
    assert [frame.kind for frame in again.frames] == [Kind.ACCEPTED, Kind.FINISH]
    assert call(app, "add", "two").result[0] == 2
    assert call(app, "add").result[0] == call(app, "add").result[0] - 1, "ids that the router made run each time"


def test_failures_and_streams_are_kept_too(app: Bare) -> None:
    first, again = call(app, "fail", "f"), call(app, "fail", "f")
    assert first.code == again.code == Code.UNKNOWN
    assert first.info == again.info and first.error == again.error and first.error.args[0].integer == 1
    streams = [call(app, "many", "s", stream=True) for _ in range(2)]
    assert streams[0].items == streams[1].items == [[2, 0], [3, 1], [4, 2]]
    assert [m.sequence for m in streams[1].stream] == [1, 2, 3]
    empty = [call(app, "many", "e", {"count": 0}, stream=True) for _ in range(2)]
    assert [(answer.code, answer.messages) for answer in empty] == [(0, []), (0, [])]


def test_what_is_too_large_is_not_kept(app: Bare) -> None:
    assert call(app, "add", "small", {"size": 60_000}).result == call(app, "add", "small").result
    assert call(app, "add", "large", {"size": 70_000}).code == 0
    again = call(app, "add", "large", {"size": 70_000})
    assert (again.code, again.info.reason, again.accepted) == (Code.ABORTED, "ALREADY_EXECUTED", True)
    assert app.notes() == ["small", "large"]


def test_the_last_64_are_kept(app: Bare) -> None:
    for number in range(65):
        assert call(app, "add", f"id-{number}").result[0] == number + 1
    assert call(app, "add", "id-64").result[0] == 65
    assert call(app, "add", "id-1").result[0] == 2
    assert call(app, "add", "id-0").result[0] == 66, "the oldest is forgotten"


def test_they_end_with_the_life(app: Bare) -> None:
    assert call(app, "add", "one").result[0] == 1
    app.router.close_session(app.worker, 5)
    app.router.open_session(app.worker, "ada", 6)
    assert app.router.call(app.worker, "add", {}, epoch=6, request_id="one").result[0] == 1
    assert app.notes() == ["one", "one"]
    plain = [app.router.call(app.worker, "add", {}, request_id="one") for _ in range(2)]
    assert {answer.error.type for answer in plain} == {"AttributeError"}, "without a session each of them runs"


def test_a_repeat_after_a_broken_link_joins_the_running_call(app: Bare) -> None:
    worker = app.worker
    first = app.router.start_call(worker, "gate", {"file": "go"}, epoch=5, request_id="held")
    eventually(app.notes, "it runs")
    old = worker.data
    assert old is not None
    old.sock.shutdown(2)
    if app.slots == 1:
        # Its only thread connects again when the handler has returned.
        (app.folder / "go").touch()
    eventually(lambda: worker.connected and worker.data is not old, "a new pair")
    again = app.router.start_call(worker, "gate", {"file": "go"}, epoch=5, request_id="held")
    (app.folder / "go").touch()
    assert app.router.finish(worker, again).result == 1
    assert app.notes() == ["held"], f"call {first} ran once"


def test_a_stream_that_a_broken_link_ended_is_not_told_as_cancelled(app: Bare) -> None:
    worker = app.worker
    id = app.router.start_call(worker, "endless", {}, epoch=5, request_id="s", stream=True)
    app.router.wait_frames(worker, id, Kind.MESSAGE, 2)
    old = worker.data
    assert old is not None
    old.sock.shutdown(2)
    eventually(lambda: worker.connected and worker.data is not old, "a new pair")
    again = call(app, "endless", "s", stream=True)
    assert (again.code, again.info.reason) == (Code.ABORTED, "ALREADY_EXECUTED")
