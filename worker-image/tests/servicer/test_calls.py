"""Single calls against a wire of the test's own: what no caller of grpcio's servers can bring about."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from servicer.fake_wire import FakeWire
from snakepit.context import Session
from snakepit.errors import Code
from snakepit.servicer.method import Method
from snakepit.worker.failure import Failure, FailureError

PATH = "/a.B/C"
TOO_LARGE = FailureError(Failure(Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", "too large"))
SECONDS = 10.0


def serve(kind: str, behavior: Callable[..., Any], wire: FakeWire, read: Any = None, write: Any = None) -> Any:
    """Serve one call; return code, message, trailers and the unary answer."""
    handler = getattr(grpc, f"{kind}_rpc_method_handler")(behavior, read, write)
    Method(PATH, handler).run(wire)
    assert wire.finished is not None
    return wire.finished


def echo(request: Any, context: Any) -> Any:
    return request


async def echo_coroutine(request: Any, context: Any) -> Any:
    return request


@pytest.mark.parametrize("behavior", [echo, echo_coroutine])
def test_one_message_each_way(behavior: Any) -> None:
    assert serve("unary_unary", behavior, FakeWire(b"x")) == (0, "", (), b"x")
    assert serve("unary_unary", behavior, FakeWire(b"")) == (0, "", (), b"")


@pytest.mark.parametrize("behavior", [echo, echo_coroutine])
def test_cancelled_before_the_request_came(behavior: Any) -> None:
    wire = FakeWire(b"x")
    wire.cancel()
    assert serve("unary_unary", behavior, wire)[0] == 1


@pytest.mark.parametrize("behavior", [echo, echo_coroutine])
def test_no_request(behavior: Any) -> None:
    code, message, _, _ = serve("unary_unary", behavior, FakeWire())
    assert (code, message) == (12, f'"{PATH}" requires exactly one request message.')


def test_what_the_caller_and_the_call_are() -> None:
    seen: dict[str, Any] = {}

    def look(request: Any, context: Any) -> Any:
        seen.update(
            worker=context.worker.name,
            session=context.session,
            id=context.request_id,
            peer=context.peer(),
            remaining=context.time_remaining(),
            metadata=[(entry.key, entry.value) for entry in context.invocation_metadata()],
        )
        assert context.invocation_metadata() is context.invocation_metadata()
        return b""

    session = Session("user-1", 7)
    wire = FakeWire(b"", metadata=(("x-a", "1"), ("x-a", "2"), ("b-bin", b"\xff")), session=session)
    wire.deadline = time.monotonic() - 1
    serve("unary_unary", look, wire)
    assert seen == {
        "worker": "pod-0/3",
        "session": session,
        "id": "r-7",
        "peer": "ipv4:10.0.0.7:51234",
        "remaining": 0,
        "metadata": [("x-a", "1"), ("x-a", "2"), ("b-bin", b"\xff")],
    }


def test_a_message_that_is_too_large_ends_a_stream() -> None:
    def many(request: Any, context: Any) -> Any:
        yield b"1"
        wire.refusal = TOO_LARGE
        yield b"2"
        raise AssertionError("not reached")

    async def many_coroutine(request: Any, context: Any) -> Any:
        for item in many(request, context):
            yield item

    for behavior in (many, many_coroutine):
        wire = FakeWire(b"")
        code, message, _, _ = serve("unary_stream", behavior, wire)
        assert (code, message, wire.sent) == (8, "too large", [b"1"])


def test_a_cancel_ends_a_generator_and_calls_back() -> None:
    closed, called = threading.Event(), threading.Event()

    def many(request: Any, context: Any) -> Any:
        assert context.add_callback(called.set)
        try:
            yield b"1"
            wire.cancel()
            assert called.wait(SECONDS)
            assert not context.is_active()
            assert not context.add_callback(called.set)
            yield b"2"
        finally:
            closed.set()

    wire = FakeWire(b"")
    assert serve("unary_stream", many, wire)[0] == 1
    assert wire.sent == [b"1"]
    assert closed.is_set()


def test_callbacks_run_after_the_end_also_when_one_raises() -> None:
    order: list[str] = []

    def answer(request: Any, context: Any) -> Any:
        context.add_callback(lambda: 1 / 0)
        context.add_callback(lambda: order.append(f"finished {wire.finished is not None}"))
        order.append("handler")
        return b""

    wire = FakeWire(b"")
    serve("unary_unary", answer, wire)
    assert order == ["handler", "finished True"]


def test_a_cancelled_call_raises_rpc_error_at_its_requests() -> None:
    caught: list[type[BaseException]] = []

    def total(requests: Any, context: Any) -> Any:
        assert next(requests) == b"1"
        wire.cancel()
        for use in (lambda: next(requests), lambda: context.send_initial_metadata((("x-a", "1"),))):
            try:
                use()
            except grpc.RpcError as error:
                caught.append(type(error))
        raise ValueError("nobody sees it")

    wire = FakeWire(b"1", b"2")
    assert serve("stream_unary", total, wire)[0] == 1
    assert caught == [grpc.RpcError, grpc.RpcError]


def test_requests_end_once() -> None:
    def total(requests: Any, context: Any) -> Any:
        first = list(requests)
        return b"".join([*first, *requests])

    assert serve("stream_unary", total, FakeWire(b"1", b"2"))[3] == b"12"


def test_what_is_no_message() -> None:
    def none(_: Any) -> Any:
        return None

    def text(_: Any) -> Any:
        return "text"

    unread = (13, "Exception deserializing request!", (), None)
    unwritten = (13, "Failed to serialize response!", (), None)
    assert serve("unary_unary", echo, FakeWire(b"x"), read=none) == unread
    assert serve("unary_unary", echo, FakeWire(b"x"), write=none) == unwritten
    # grpcio leaves callers without an answer here.
    assert serve("unary_unary", echo, FakeWire(b"x"), write=text) == unwritten
    assert serve("unary_unary", echo_coroutine, FakeWire(b"x"), write=text)[:2] == (
        2,
        "Unexpected <class 'TypeError'>: Expected bytes, got str",
    )
    assert serve("unary_unary", echo, FakeWire(b"x"), write=lambda _: Bytes(b"y"))[3] == b"y"


class Bytes(bytes):
    """What some serializers return."""


def test_metadata_that_cannot_be_sent_fails_the_call() -> None:
    def many(request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("x-a-bin", "no bytes"),))
        yield b"1"

    # grpcio leaves callers without an answer here.
    assert serve("unary_stream", many, FakeWire(b""))[:2] == (13, "Invalid metadata")

    def large(request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("x-a", "v" * 30_000),))
        return b""

    code, message, trailers, answer = serve("unary_unary", large, FakeWire(b""))
    assert (code, trailers, answer) == (13, (), None)
    assert "at most 20480" in message


def test_a_status_message_is_bounded() -> None:
    def fail(request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.INTERNAL, "ü" * 50_000)

    _, message, _, _ = serve("unary_unary", fail, FakeWire(b""))
    assert 20_000 < len(message.encode()) <= 20 << 10


def test_each_call_has_contextvars_of_its_own() -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default=b"default")

    def look(request: Any, context: Any) -> Any:
        before = variable.get()
        variable.set(b"left behind")
        return before

    assert [serve("unary_unary", look, FakeWire(b""))[3] for _ in range(2)] == [b"default", b"default"]
    assert variable.get() == b"default"


def test_a_write_without_credit_waits_beside_the_loop() -> None:
    threads: list[str] = []

    class Slow(FakeWire):
        def send(self, message: bytes) -> None:
            threads.append(threading.current_thread().name)
            super().send(message)

    async def many(request: Any, context: Any) -> Any:
        for number in range(4):
            yield b"%d" % number

    wire = Slow(b"")
    wire.credit = 2
    serve("unary_stream", many, wire)
    assert wire.sent == [b"0", b"1", b"2", b"3"]
    assert [name.startswith("snakepit-stream") for name in threads] == [False, False, True, True]


def test_a_write_that_was_given_up_is_not_overtaken() -> None:
    allowed = threading.Event()

    class Stuck(FakeWire):
        def send(self, message: bytes) -> None:
            assert allowed.wait(SECONDS)
            super().send(message)

        def try_send(self, message: bytes) -> bool:
            return False if not self.sent and not allowed.is_set() else super().try_send(message)

    async def many(request: Any, context: Any) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(context.write(b"first"), 0.01)
        asyncio.get_running_loop().call_later(0.01, allowed.set)
        await context.write(b"second")

    wire = Stuck(b"")
    assert serve("unary_stream", many, wire)[0] == 0
    assert wire.sent == [b"first", b"second"]


def test_a_coroutine_that_is_cancelled_cleans_up_and_calls_back() -> None:
    order: list[str] = []

    async def wait(request: Any, context: Any) -> Any:
        context.add_done_callback(lambda ended: order.append(f"done {ended.done()}"))
        wire.cancel()
        try:
            await asyncio.sleep(SECONDS)
        finally:
            order.append("cleaned up")

    wire = FakeWire(b"")
    assert serve("unary_unary", wait, wire)[0] == 1
    assert order == ["cleaned up", "done True"]


def test_compression_is_not_the_handlers_but_checked_as_grpc_aio_does() -> None:
    async def late(request: Any, context: Any) -> Any:
        context.set_compression(grpc.Compression.Gzip)
        await context.send_initial_metadata((("x-a", "1"),))
        context.set_compression(grpc.Compression.Gzip)

    wire = FakeWire(b"")
    code, message, _, _ = serve("unary_unary", late, wire)
    assert (code, wire.headers) == (2, (("x-a", "1"),))
    assert "Compression setting must be specified before" in message
