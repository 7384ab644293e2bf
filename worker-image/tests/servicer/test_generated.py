"""Whatever callers and handlers send: the same arrives from grpcio's own servers and from ours, the whole way."""

from __future__ import annotations

import dataclasses
from typing import Any

import cases_pb2
import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicer.observe import Call, Seen, observe

KEYS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=20).map("x-".__add__)
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
ENTRIES = st.one_of(
    st.tuples(KEYS.filter(lambda key: not key.endswith("-bin")), TEXTS),
    st.tuples(KEYS.map(lambda key: key + "-bin"), st.binary(max_size=60)),
)
METADATA = st.lists(ENTRIES, max_size=8).map(tuple)
SCRIPTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CODES = st.sampled_from([code.name for code in grpc.StatusCode])

few = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def views(channels: list[tuple[str, grpc.Channel]], call: Call) -> list[dict[str, Any]]:
    seen: list[Seen] = [observe(channel, service, call) for service, channel in channels]
    return [dataclasses.asdict(each) for each in seen]


@given(metadata=METADATA)
@few
def test_metadata_both_ways(
    sync_channel: grpc.Channel, aio_channel: grpc.Channel, router_channel: grpc.Channel, metadata: tuple[Any, ...]
) -> None:
    call = Call("One", [cases_pb2.Ask(case="metadata")], metadata=metadata)
    plain, ours = views([("Plain", sync_channel), ("Plain", router_channel)], call)
    assert ours == plain
    coroutines, ours = views([("Coroutines", aio_channel), ("Coroutines", router_channel)], call)
    assert ours == coroutines


@given(code=CODES, message=SCRIPTS, case=st.sampled_from(["abort", "code_and_details"]))
@few
def test_status(
    sync_channel: grpc.Channel,
    aio_channel: grpc.Channel,
    router_channel: grpc.Channel,
    code: str,
    message: str,
    case: str,
) -> None:
    if case == "abort" and code == "OK":
        return
    call = Call("One", [cases_pb2.Ask(case=case, words=[code, message])])
    plain, ours = views([("Plain", sync_channel), ("Plain", router_channel)], call)
    assert ours == plain
    coroutines, ours = views([("Coroutines", aio_channel), ("Coroutines", router_channel)], call)
    assert ours == coroutines


@given(sizes=st.lists(st.integers(0, 600_000), min_size=1, max_size=6), seed=st.binary(min_size=1, max_size=64))
@few
def test_messages_and_their_order(
    sync_channel: grpc.Channel, router_channel: grpc.Channel, sizes: list[int], seed: bytes
) -> None:
    data = [(seed * (size // len(seed) + 1))[:size] for size in sizes]
    requests = [cases_pb2.Ask(case="echo", number=n, data=each) for n, each in enumerate(data)]
    plain, ours, coroutines = views(
        [("Plain", sync_channel), ("Plain", router_channel), ("Coroutines", router_channel)], Call("Chat", requests)
    )
    assert ours == plain == coroutines
