"""Interceptors before grpcio's own servers and before ours: callers must see the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cases_pb2
import grpc
import pytest

import snakepit
from servicer import app
from servicer.gateway import Gateway
from servicer.interceptors import KEY, Aio, Blocking
from servicer.observe import Call, Seen, observe
from servicer.servers import aio_server, channel_to, sync_server
from servicer.table import ask

WISHES = ["raise", "none", "abort", "rename", "variable", "wrap", "nothing"]
CALLS = {
    "unary": Call("One", [ask("contextvar")]),
    "server stream": Call("Many", [ask("count", number=3)]),
    "client stream": Call("Sum", [ask("all", number=1), ask("all", number=2)]),
    "both": Call("Chat", [ask("echo", number=1), ask("echo", number=2)]),
}
# The wrapper is one for unary methods.
CASES = [(kind, wanted) for kind in CALLS for wanted in WISHES if kind == "unary" or wanted != "wrap"]


@contextmanager
def gateway(server: Any) -> Iterator[grpc.Channel]:
    serving = Gateway(server)
    try:
        with channel_to(serving.port) as channel:
            yield channel
    finally:
        serving.close()


@pytest.fixture(scope="module")
def blocking() -> Iterator[tuple[grpc.Channel, grpc.Channel]]:
    def register(server: Any) -> None:
        server.add_generic_rpc_handlers([app.PLAIN])

    with sync_server(register, [Blocking("first"), Blocking("second")]) as theirs, gateway(app.blocking) as ours:
        yield theirs, ours


@pytest.fixture(scope="module")
def aio() -> Iterator[tuple[grpc.Channel, grpc.Channel]]:
    def register(server: Any) -> None:
        server.add_generic_rpc_handlers([app.COROUTINES])

    with aio_server(register, [Aio("first"), Aio("second")]) as theirs, gateway(app.aio) as ours:
        yield theirs, ours


@pytest.fixture(scope="module")
def mixed() -> Iterator[grpc.Channel]:
    with gateway(app.mixed) as ours:
        yield ours


def see(channel: grpc.Channel, service: str, call: Call, wanted: str) -> Seen:
    call = Call(call.method, call.requests, metadata=((KEY, wanted),))
    return observe(channel, service, call)


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize(("kind", "wanted"), CASES)
def test_blocking(blocking: tuple[grpc.Channel, grpc.Channel], kind: str, wanted: str, name: str) -> None:
    theirs, ours = (see(channel, "Plain", CALLS[kind], f"{wanted}-{name}") for channel in blocking)
    assert ours == theirs


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize(("kind", "wanted"), CASES)
def test_aio(aio: tuple[grpc.Channel, grpc.Channel], kind: str, wanted: str, name: str) -> None:
    if wanted == "rename":
        # grpc.aio takes no details but its own, which cannot be changed; here they may be, as with grpc.server.
        seen = see(aio[1], "Coroutines", CALLS[kind], f"{wanted}-{name}")
        assert [cases_pb2.Reply.FromString(message).text for message in seen.messages] == ["another method"]
        return
    theirs, ours = (see(channel, "Coroutines", CALLS[kind], f"{wanted}-{name}") for channel in aio)
    assert ours == theirs


@pytest.mark.parametrize("service", ["Plain", "Coroutines"])
@pytest.mark.parametrize(
    ("wanted", "code", "text"),
    [
        ("nothing", "OK", "nothing"),
        ("variable-first", "OK", "set by first"),
        ("rename-first", "OK", "another method"),
        ("rename-second", "OK", "another method"),
        ("raise-first", "UNKNOWN", "Error in service handler!"),
        ("raise-second", "UNKNOWN", "Error in service handler!"),
        ("none-first", "UNIMPLEMENTED", "Method not found!"),
        ("none-second", "UNIMPLEMENTED", "Method not found!"),
        ("abort-first", "UNAUTHENTICATED", "not for you"),
        ("abort-second", "UNAUTHENTICATED", "not for you"),
    ],
)
def test_both_kinds_before_both_kinds(mixed: grpc.Channel, service: str, wanted: str, code: str, text: str) -> None:
    seen = see(mixed, service, CALLS["unary"], wanted)
    assert seen.code == code
    assert (cases_pb2.Reply.FromString(seen.messages[0]).text if seen.messages else seen.details) == text


def test_a_blocking_interceptor_after_one_of_aio_is_refused() -> None:
    with pytest.raises(ValueError, match="put it first"):
        snakepit.server(interceptors=[Aio("first"), Blocking("second")])
    with pytest.raises(ValueError, match="no intercept_service"):
        snakepit.server(interceptors=[object()])
