"""What a caller sees of one call, in full, and the calls whose views are compared."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cases_pb2
import grpc

SECONDS = 10.0
_numbers = itertools.count()

# What transports add by themselves to the metadata that a caller sees. Nothing else may differ.
TRANSPORT_KEYS = frozenset(("grpc-accept-encoding", "accept-encoding", "date", "server"))
PREFIX = "snakepit-"


@dataclass
class Call:
    """One call: whom, with what, and what the caller does meanwhile."""

    method: str
    requests: list[Any]
    metadata: tuple[Any, ...] = ()
    timeout: float = SECONDS
    compression: grpc.Compression | None = None
    # Cancel after so many messages; -1: as soon as the initial metadata is there.
    cancel_after: int | None = None
    # Send a request only when the answer to the one before has come.
    paced: bool = False
    # Never end the request's stream.
    hold: bool = False
    # Ask afterwards whether the handler noticed; its event is the first of `words`.
    noticed: bool = False
    # Call as the kind of method that it is, not as a stream of raw messages.
    unary: bool = False
    # What the two stacks are known to differ in, as a field of Seen, with the reason.
    differs: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """What the caller saw."""

    code: str
    details: str
    messages: list[bytes]
    initial: list[tuple[str, Any]]
    trailing: list[tuple[str, Any]]
    noticed: str = ""


def observe(channel: grpc.Channel, service: str, call: Call) -> Seen:
    """Make a call and return all that it showed."""
    name = f"event-{next(_numbers)}"
    requests = [_serialized(request, name) for request in call.requests]
    path = f"/servicer.cases.{service}/{call.method}"
    seen = _unary(channel, path, requests[0], call) if call.unary else _stream(channel, path, requests, call)
    if call.timeout < SECONDS and seen.code == "CANCELLED" and "RST_STREAM" in seen.details:
        # grpc-go ends a stream at its deadline by RST_STREAM; grpcio's client calls that a cancel when its own clock is
        # up to a millisecond behind.
        seen.code = "DEADLINE_EXCEEDED"
    if call.noticed:
        ask = cases_pb2.Ask(case="was_set", words=[name]).SerializeToString()
        answer = channel.unary_unary(f"/servicer.cases.{service}/One")(ask, timeout=SECONDS)
        seen.noticed = cases_pb2.Reply.FromString(answer).text
    return seen


def _serialized(request: Any, name: str) -> bytes:
    if isinstance(request, bytes):
        return request
    copied = cases_pb2.Ask()
    copied.CopyFrom(request)
    for index, word in enumerate(copied.words):
        if word == "EVENT":
            copied.words[index] = name
    return copied.SerializeToString()


def _unary(channel: grpc.Channel, path: str, request: bytes, call: Call) -> Seen:
    made = channel.unary_unary(path).future(
        request, timeout=call.timeout, metadata=call.metadata, compression=call.compression
    )
    messages = []
    try:
        messages.append(made.result())
    except grpc.RpcError:
        pass
    return _seen(made, messages)


def _stream(channel: grpc.Channel, path: str, requests: list[bytes], call: Call) -> Seen:
    answered = threading.Semaphore(0)
    ended = threading.Event()

    def sending() -> Iterator[bytes]:
        for index, request in enumerate(requests):
            if call.paced and index:
                answered.acquire()
            yield request
        if call.paced:
            answered.acquire()
        if call.hold:
            ended.wait(SECONDS)

    made = channel.stream_stream(path)(
        sending(), timeout=call.timeout, metadata=call.metadata, compression=call.compression
    )
    messages: list[bytes] = []
    try:
        if call.cancel_after == -1:
            made.initial_metadata()
            made.cancel()
        for message in made:
            messages.append(message)
            answered.release()
            if len(messages) == call.cancel_after:
                made.cancel()
    except grpc.RpcError:
        pass
    finally:
        ended.set()
        answered.release()
        answered.release()
    return _seen(made, messages)


def _seen(made: Any, messages: list[bytes]) -> Seen:
    return Seen(
        made.code().name, made.details(), messages, _plain(made.initial_metadata()), _plain(made.trailing_metadata())
    )


def _plain(metadata: Any) -> list[tuple[str, Any]]:
    kept = [(key, value) for key, value in metadata or () if not key.startswith(PREFIX) and key not in TRANSPORT_KEYS]
    # The order of different keys is no promise of HTTP/2; the order of one key's values is.
    return sorted(kept, key=lambda pair: pair[0])
