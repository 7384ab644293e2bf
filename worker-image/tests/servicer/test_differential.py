"""The same calls against grpcio's own servers and against ours: callers must see the same."""

from __future__ import annotations

import dataclasses

import cases_pb2
import grpc
import pytest

from servicer.observe import Call, observe
from servicer.table import COROUTINES, PLAIN


def compare(theirs: grpc.Channel, ours: grpc.Channel, service: str, call: Call) -> None:
    expected, seen = observe(theirs, service, call), observe(ours, service, call)
    for field in dataclasses.fields(expected):
        if field.name not in call.differs:
            assert getattr(seen, field.name) == getattr(expected, field.name), field.name


@pytest.mark.parametrize("name", PLAIN)
def test_plain_functions(sync_channel: grpc.Channel, ours: grpc.Channel, name: str) -> None:
    compare(sync_channel, ours, "Plain", PLAIN[name])


@pytest.mark.parametrize("name", COROUTINES)
def test_coroutines(aio_channel: grpc.Channel, ours: grpc.Channel, name: str) -> None:
    compare(aio_channel, ours, "Coroutines", COROUTINES[name])


@pytest.mark.parametrize("service", ["Plain", "Coroutines"])
def test_a_message_of_100_mib(router_channel: grpc.Channel, service: str) -> None:
    empty = cases_pb2.Ask(case="echo", data=b"")
    # The largest message of a pool: its default for calls.maxMessageBytes.
    data = bytes((100 << 20) - empty.ByteSize() - 16)
    seen = observe(router_channel, service, Call("One", [cases_pb2.Ask(case="echo", data=data)], timeout=60))
    assert (seen.code, seen.details) == ("OK", "")
    assert cases_pb2.Reply.FromString(seen.messages[0]).data == data
