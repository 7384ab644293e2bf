"""Calls on a real worker: kinds of tools, errors, cancels, credit, sizes, refusals, sessions and their hooks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from calls_app import APP
from conftest import Starter
from container import Container
from fake_router import FakeRouter
from router_view import Worker, eventually, request
from snakepit import messages as rpc
from snakepit.bridge import messages
from snakepit.bridge.protocol import FLAG_MESSAGE, FLAGS_WHOLE, MAX_PAYLOAD, Frame, GoodbyeReason, Kind, Outcome
from snakepit.errors import Code


@pytest.fixture
def container(start: Starter) -> Container:
    return start(source=APP)


@pytest.fixture
def router(container: Container) -> FakeRouter:
    container.router.desire(0)
    return container.router


@pytest.fixture
def worker(router: FakeRouter) -> Worker:
    return router.wait_worker(0)


def notes(folder: Path) -> list[str]:
    file = folder / "notes"
    return file.read_text().splitlines() if file.exists() else []


def test_hello_says_what_can_be_called(worker: Worker) -> None:
    assert worker.data is not None
    tools = {tool.name: tool for tool in worker.data.hello.tools}
    assert "not_a_tool" not in tools
    assert tools["ns.renamed"].description == "Another name."
    assert {name: tools[name].kind for name in ("endless", "endless_async", "wait_async", "size")} == {
        "endless": 2, "endless_async": 2, "wait_async": 1, "size": 1,
    }  # fmt: skip
    assert '"payload":{"type":"string","contentEncoding":"base64"}' in tools["size"].parameters_schema


def test_context(router: FakeRouter, worker: Worker) -> None:
    metadata = {"x-user": b"ada", "blob-bin": b"\x00\xff"}
    answer = router.call(worker, "about", timeout=5, metadata=metadata).result
    assert answer == {
        "id": "r-1", "metadata": {"x-user": "ada", "blob-bin": b"\x00\xff"}, "session": True, "left": True, "slot": 0,
        "cancelled": False,
    }  # fmt: skip
    assert router.call(worker, "about").result["left"] is None


def test_async_static_and_named_tools(router: FakeRouter, worker: Worker) -> None:
    assert router.call(worker, "aloop").result == 7
    assert router.call(worker, "static").result == 4
    assert router.call(worker, "static", json={"a": 5}).result == 5
    assert router.call(worker, "ns.renamed").result is None


def test_unary_by_stream_and_stream_by_unary(router: FakeRouter, worker: Worker) -> None:
    answer = router.call(worker, "aloop", stream=True)
    assert answer.items == [7]
    assert answer.stream[0].sequence == 1
    refused = router.call(worker, "endless")
    assert (refused.code, refused.info.reason) == (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID")
    assert "ExecuteStream" in refused.info.message


def test_progress_values_and_an_error_at_the_end_of_a_stream(router: FakeRouter, worker: Worker) -> None:
    answer = router.call(worker, "steps", stream=True)
    first, second, error = answer.stream
    assert (first.progress.fraction, first.progress.message, first.sequence) == (0.5, "half", 1)
    assert (second.value.text, second.sequence) == ("done", 2)
    assert (answer.code, error.error.type) == (Code.UNKNOWN, "ValueError")


@pytest.mark.parametrize(
    ("how", "code", "kind"),
    [
        ("value", Code.UNKNOWN, "ValueError"),
        ("key", Code.NOT_FOUND, "KeyError"),
        ("zero", Code.OUT_OF_RANGE, "ZeroDivisionError"),
        ("not found", Code.NOT_FOUND, "snakepit.errors.NotFound"),
        ("custom", Code.UNKNOWN, "app.Rejected"),
        ("exit", Code.UNKNOWN, "SystemExit"),
        ("unprintable", Code.UNKNOWN, "app.Unprintable"),
        ("result", Code.INTERNAL, "snakepit.values.EncodeError"),
        ("os", Code.UNKNOWN, "FileNotFoundError"),
    ],
)
def test_exceptions(router: FakeRouter, worker: Worker, how: str, code: Code, kind: str) -> None:
    answer = router.call(worker, "fail", {"how": how})
    assert (answer.code, answer.outcome, answer.info.reason) == (code, 0, "ADAPTER_EXCEPTION")
    assert answer.info.info["type"] == kind
    assert answer.error.type == kind
    assert len(answer.info.message.encode()) <= 200
    assert len(answer.info.traceback.encode()) <= 2048
    if how not in ("unprintable", "result"):
        assert "app.py" in answer.error.traceback
    assert "snakepit/worker" not in answer.error.traceback or how == "result"
    if how == "value":
        assert [a.text or a.integer for a in answer.error.args] == ["boom", 3]
    if how == "os":
        assert list(answer.error.bases) == ["OSError", "Exception"]
        assert answer.error.args[0].integer == 2
    if how == "result":
        assert "result.deep[0]" in answer.info.message
    assert router.call(worker, "static").result == 4, "the worker serves on"


def test_bad_arguments_are_all_listed(router: FakeRouter, worker: Worker) -> None:
    answer = router.call(worker, "bigs", {"count": "x", "nope": 1}, stream=True)
    assert (answer.code, answer.info.reason, answer.accepted) == (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", True)
    assert {v.field: v.description for v in answer.info.violations} == {
        "count": "expected int, got str",
        "nope": "no such argument; bigs takes count, times",
        "times": "missing, expected int",
    }
    both = router.call(worker, "static", {"a": 1}, json={"a": 2})
    assert [v.description for v in both.info.violations] == ["given in both arguments and json; send it once"]
    garbage = router.call(worker, "static", payload=b"\xff\xff\xff")
    assert garbage.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("tool", ["wait", "wait_async", "endless", "endless_async"])
def test_cancel(router: FakeRouter, worker: Worker, folder: Path, tool: str) -> None:
    id = router.start_call(worker, tool, stream=tool.startswith("endless"))
    wanted = 3 if tool.startswith("endless") else 1
    eventually(lambda: len(worker.frames[id]) >= wanted, "it runs")
    router.cancel(worker, id)
    answer = router.finish(worker, id, 3)
    assert answer.code == Code.CANCELLED
    cleaned = {"wait_async": "async cleaned", "endless": "generator closed", "endless_async": "async generator closed"}
    if tool in cleaned:
        assert cleaned[tool] in notes(folder)


def test_a_cancel_that_overtakes_its_call(router: FakeRouter, worker: Worker) -> None:
    router.cancel(worker, 2)
    assert worker.control is not None
    worker.control.send(Frame(Kind.PING, fixed=(5,)))
    eventually(lambda: worker.control and worker.control.pongs, "the Cancel was read")
    assert router.call(worker, "static").result == 4
    answer = router.call(worker, "static")
    assert (answer.code, answer.outcome, answer.accepted) == (Code.CANCELLED, Outcome.REFUSED_CANCELLED, False)
    assert router.call(worker, "static").result == 4


def test_refusals_come_without_accepted(router: FakeRouter, worker: Worker) -> None:
    unknown = router.call(worker, "static", index=200)
    assert (unknown.outcome, unknown.accepted) == (Outcome.REFUSED_TOOL, False)
    stale = router.call(worker, "static", epoch=99)
    assert (stale.outcome, stale.accepted) == (Outcome.REFUSED_SESSION, False)
    assert worker.data is not None
    # Two calls in one write: the second has waited for the first when it is looked at.
    first, second = next(worker.ids), next(worker.ids)
    worker.frames[first], worker.frames[second] = [], []
    slow = request("wait_async", {})
    quick = request("static", {})
    tools = worker.tools
    worker.data.sock.sendall(
        Frame(Kind.CALL, FLAGS_WHOLE, first, (tools.index("wait_async"), 0, 0), b"", slow).encode()
        + Frame(Kind.CALL, FLAGS_WHOLE, second, (tools.index("static"), 0, 50_000), b"", quick).encode()
    )
    eventually(lambda: worker.frames[first], "accepted")
    accepted_at = time.monotonic()
    eventually(lambda: time.monotonic() > accepted_at + 0.06, "the second call's 50 ms are over")
    router.cancel(worker, first)
    late = router.finish(worker, second)
    assert (late.outcome, late.code) == (Outcome.REFUSED_DEADLINE, Code.DEADLINE_EXCEEDED)


def test_large_messages_both_ways(router: FakeRouter, worker: Worker) -> None:
    assert router.call(worker, "size", {"payload": bytes(3 * MAX_PAYLOAD)}).result == 3 * MAX_PAYLOAD
    answer = router.call(worker, "big", {"count": 900_000})
    assert len(answer.result) == 900_000
    assert all(len(frame.payload) <= MAX_PAYLOAD for frame in answer.frames)
    assert answer.frames[-1].flags & FLAG_MESSAGE


def test_credit_runs_out_and_comes_back(router: FakeRouter, worker: Worker) -> None:
    id = router.start_call(worker, "bigs", {"count": 300_000, "times": 5}, stream=True)

    def sent() -> int:
        return sum(len(frame.payload) for frame in list(worker.frames[id]))

    eventually(lambda: sent() == 1 << 20, "the whole window is used, and not a byte more")
    assert worker.control is not None
    for turn in range(1, 20):
        worker.control.send(Frame(Kind.WINDOW, 0, id, (100_000,)))
        expected = (1 << 20) + turn * 100_000

        def moved(expected: int = expected) -> bool:
            return worker.frames[id][-1].kind == Kind.FINISH or sent() >= expected

        eventually(moved, "what was given is used")
        assert sent() <= expected
        if worker.frames[id][-1].kind == Kind.FINISH:
            break
    assert [len(item) for item in router.finish(worker, id).items] == [300_000] * 5


def test_cancel_while_waiting_for_credit(router: FakeRouter, worker: Worker) -> None:
    id = router.start_call(worker, "big", {"count": 3 << 20})
    eventually(lambda: sum(len(f.payload) for f in list(worker.frames[id])) == 1 << 20, "the window is used up")
    router.cancel(worker, id)
    assert router.finish(worker, id).code == Code.CANCELLED
    assert router.call(worker, "static").result == 4


def test_a_request_in_pieces_gives_credit_back(router: FakeRouter, worker: Worker) -> None:
    body = request("size", {"payload": bytes(2 << 20)})
    id = router.start_call(worker, "size", payload=body[:1000], flags=FLAG_MESSAGE)
    router.send_pieces(worker, id, body[1000:])
    assert router.finish(worker, id).result == 2 << 20
    # Windows came on CONTROL, where the test router files frames by call too.
    windows = [frame for frame in worker.frames[id] if frame.kind == Kind.WINDOW]
    assert sum(frame.fixed[0] for frame in windows) >= 1 << 20


def test_cancel_while_a_request_is_incomplete(router: FakeRouter, worker: Worker) -> None:
    id = router.start_call(worker, "size", payload=b"\x0a", flags=FLAG_MESSAGE)
    eventually(lambda: worker.frames[id], "accepted")
    router.cancel(worker, id)
    answer = router.finish(worker, id)
    assert (answer.code, answer.accepted) == (Code.CANCELLED, True)
    assert worker.data is not None
    worker.data.send(Frame(Kind.MESSAGE, FLAGS_WHOLE, id, payload=b"late"))
    assert router.call(worker, "static").result == 4


def test_message_limit(start: Starter) -> None:
    container = start(source=APP)
    container.router.max_message = 10_000
    container.router.desire(0)
    worker = container.router.wait_worker(0)
    answer = container.router.call(worker, "big", {"count": 20_000})
    assert (answer.code, answer.info.reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert answer.info.info["limit"] == "10000"
    pieces = container.router.call(worker, "size", {"payload": bytes(2 * MAX_PAYLOAD)})
    assert (pieces.code, pieces.info.reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")


def test_sessions_and_their_hooks(container: Container, router: FakeRouter, worker: Worker, folder: Path) -> None:
    assert router.open_session(worker, "ada", 10).fixed == (10, 0)
    assert router.call(worker, "remember", {"item": "x"}, epoch=10).result == ["x"]
    assert router.open_session(worker, "ada", 9).fixed == (9, 2)
    assert router.call(worker, "remember", {"item": "y"}, epoch=9).outcome == Outcome.REFUSED_SESSION
    assert router.close_session(worker, 10).fixed == (10, 0)
    assert router.close_session(worker, 10).fixed == (10, 2)
    assert router.open_session(worker, "ada", 10).fixed == (10, 2)
    assert router.open_session(worker, "ada", 12).fixed == (12, 0)
    assert router.call(worker, "remember", {"item": "z"}, epoch=12).result == ["z"]

    raised = router.open_session(worker, "bad", 13)
    assert raised.fixed == (13, 1)
    end = messages.SessionEnd.FromString(raised.ext)
    assert (end.error_type, end.error_message) == ("LookupError", "no such user")
    refused = router.call(worker, "remember", {"item": "z"}, epoch=13)
    assert (refused.outcome, refused.accepted) == (Outcome.REFUSED_SESSION_START, False)
    assert refused.info.info["type"] == "LookupError"

    router.open_session(worker, "bad-end", 14)
    ended = router.close_session(worker, 14)
    assert ended.fixed == (14, 1)
    assert messages.SessionEnd.FromString(ended.ext).error_type == "ValueError"
    assert router.call(worker, "remember", {"item": "z"}, epoch=14).outcome == Outcome.REFUSED_SESSION

    router.desire()
    assert router.exited(router.slots[0]).exit_code == 0
    assert notes(folder) == [
        "setup pod-0/0 None", "start ada", "end ada ['x']", "start ada", "start bad", "start bad-end",
        "end bad-end []", "end ada ['z']", "teardown",
    ]  # fmt: skip
    assert worker.data is not None and worker.data.goodbye.reason == GoodbyeReason.SHUTDOWN


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.ACCEPTED, 0, 1),
        Frame(Kind.CANCEL, 0, 1, (1,)),
        Frame(Kind.CALL, FLAGS_WHOLE, 1, (0, 0, 0), b"\xff\xff"),
        b"\xff\xff\xff\xff",
    ],
    ids=["direction", "connection", "extension", "length"],
)
def test_a_bad_frame_on_data_closes_it_with_a_reason(router: FakeRouter, worker: Worker, frame: Any) -> None:
    data = worker.data
    assert data is not None
    router.open_session(worker, "kept", 3)
    data.sock.sendall(frame if isinstance(frame, bytes) else frame.encode())
    eventually(lambda: data.goodbye is not None, "Goodbye")
    assert data.goodbye.reason == GoodbyeReason.PROTOCOL_ERROR
    eventually(lambda: worker.data is not data and worker.connected, "the worker is back")
    assert router.call(worker, "remember", {"item": "x"}, epoch=3).result == ["x"]


def test_unknown_kinds_are_ignored(router: FakeRouter, worker: Worker) -> None:
    assert worker.data is not None and worker.control is not None and router.supervisor is not None
    for connection in (worker.data, worker.control, router.supervisor):
        connection.send(Frame(0x7E, 0, 9, payload=b"from the future"))
    assert router.call(worker, "static").result == 4


def test_both_connections_end_together(router: FakeRouter, worker: Worker) -> None:
    data, control = worker.data, worker.control
    assert data is not None and control is not None
    router.open_session(worker, "kept", 3)
    control.sock.shutdown(2)
    eventually(lambda: data.ended, "DATA ends with CONTROL")
    eventually(lambda: worker.connected and worker.data is not data, "a new pair")
    assert router.call(worker, "remember", {"item": "x"}, epoch=3).result == ["x"]


def test_a_handler_runs_on_when_its_link_breaks(router: FakeRouter, worker: Worker, folder: Path) -> None:
    router.start_call(worker, "endless", stream=True)
    eventually(lambda: len(worker.frames[1]) > 2, "it yields")
    assert worker.data is not None
    worker.data.sock.shutdown(2)
    eventually(lambda: "generator closed" in notes(folder), "the stream is closed between two values")
    eventually(lambda: worker.connected, "back")
    assert router.call(worker, "static").result == 4


def test_answers_are_messages_of_the_api(router: FakeRouter, worker: Worker) -> None:
    answer = router.call(worker, "static")
    assert rpc.ExecuteResponse.FromString(answer.messages[0]).result.integer == 4
    assert [frame.kind for frame in answer.frames] == [Kind.ACCEPTED, Kind.FINISH]
