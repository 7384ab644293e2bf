"""Servicers in real workers behind the real router: what grpcio's own server has no word for."""

from __future__ import annotations

from concurrent import futures

import cases_pb2
import grpc
import pytest

from servicer.observe import SECONDS, Call, observe
from servicer.stage import Stage
from servicer.table import COROUTINES, PLAIN, ask


def one(channel: grpc.Channel, service: str, case: str, **more: object) -> cases_pb2.Reply:
    method = channel.unary_unary(f"/servicer.cases.{service}/One", response_deserializer=cases_pb2.Reply.FromString)
    return method(ask(case).SerializeToString(), timeout=SECONDS, **more)


def test_no_thread_of_grpc_lives_in_a_worker(router_channel: grpc.Channel) -> None:
    for service, table in (("Plain", PLAIN), ("Coroutines", COROUTINES)):
        for name in ("echo", "many messages", "sum", "chat"):
            assert observe(router_channel, service, table[name]).code == "OK"
    reply = one(router_channel, "Plain", "threads")
    # Each task of the kernel is a thread that Python knows: handlers, CONTROL, and those that wait for streams.
    assert len(reply.words) == reply.number
    assert not [word for word in reply.words if "grpc" in word or "event_engine" in word or "timer" in word]


def test_the_adapter_is_safe_to_fork_with_grpc_imported(stage: Stage) -> None:
    loaded = [line for line in stage.output().splitlines() if "ADAPTER_PHASE_LOADED" in line]
    assert loaded
    assert all('"forkUnsafe":""' in line for line in loaded)


def test_reflection_lists_the_servicers(router_channel: grpc.Channel) -> None:
    reflect = router_channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    symbol = b"servicer.cases.Coroutines"
    # ServerReflectionRequest: list_services is field 7, file_containing_symbol field 4.
    requests = [b"\x3a\x01*", b"\x22" + bytes([len(symbol)]) + symbol]
    services, files = reflect(iter(requests), timeout=SECONDS)
    assert b"servicer.cases.Plain" in services
    assert b"servicer.cases.Coroutines" in services
    assert b"cases.proto" in files


@pytest.mark.parametrize("service", ["Plain", "Coroutines"])
def test_sessions(router_channel: grpc.Channel, service: str) -> None:
    assert one(router_channel, service, "session").text == "none"
    name = f"user-{service}"
    metadata = (("snakepit-session", name), ("snakepit-session-create", "true"))
    first = one(router_channel, service, "session", metadata=metadata)
    second = one(router_channel, service, "session", metadata=metadata)
    assert (first.text, first.number, second.number) == (name, 1, 2)
    assert list(second.words) == ["by session_start", "local/0", "True"]


@pytest.mark.parametrize("service", ["Plain", "Coroutines"])
def test_sys_exit_ends_the_call_only(router_channel: grpc.Channel, service: str) -> None:
    seen = observe(router_channel, service, Call("One", [ask("exit")]))
    assert seen.code == "UNKNOWN"
    assert seen.details in ("Exception calling application: 3", "Unexpected <class 'SystemExit'>: 3")
    assert observe(router_channel, service, PLAIN["echo"]).code == "OK"


@pytest.mark.parametrize("service", ["Plain", "Coroutines"])
def test_calls_overlap_in_a_worker_with_slots(threads_channel: grpc.Channel, service: str) -> None:
    with futures.ThreadPoolExecutor(4) as callers:
        replies = list(callers.map(lambda _: one(threads_channel, service, "meet"), range(4)))
    assert [reply.text for reply in replies] == ["met"] * 4


@pytest.mark.parametrize("service", ["Plain", "Coroutines"])
@pytest.mark.parametrize("name", ["echo", "many messages", "messages of 1 MiB", "sum", "chat, message by message"])
def test_streams_overlap_in_a_worker_with_slots(threads_channel: grpc.Channel, service: str, name: str) -> None:
    call = PLAIN[name]
    with futures.ThreadPoolExecutor(4) as callers:
        seen = list(callers.map(lambda _: observe(threads_channel, service, call), range(8)))
    assert {each.code for each in seen} == {"OK"}
    assert all(each.messages == seen[0].messages for each in seen)
