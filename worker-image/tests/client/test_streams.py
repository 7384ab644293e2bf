"""Streams: values in order, progress, ends, and leaving early."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from client.fake_router import Failure, Router, adapter_raised
from snakepit import Client, Progress, messages
from snakepit import client as api


@pytest.fixture(autouse=True)
def tools(router: Router) -> None:
    """Give the router a countdown."""
    router.tools["countdown"] = lambda run: iter(range(run.seen.arguments["start"], 0, -1))


class Endless:
    """A tool that yields for ever, and says how it ended."""

    def __init__(self, router: Router) -> None:
        self.cancelled = threading.Event()
        self.yielded = 0
        router.tools["endless"] = self

    def __call__(self, run: Any) -> Iterator[int]:
        run.context.add_callback(self.cancelled.set)
        while not self.cancelled.is_set():
            self.yielded += 1
            yield self.yielded


def test_values_come_in_order(client: Client, router: Router) -> None:
    stream = client.stream("countdown", start=4)
    assert list(stream) == [4, 3, 2, 1]
    assert list(stream) == []
    assert stream.worker == "pod-0/0"
    assert stream.request_id == router.calls("ExecuteStream")[0].metadata["snakepit-request-id"]


def test_a_long_stream_and_large_values(client: Client, router: Router) -> None:
    router.tools["blobs"] = lambda run: (bytes([n]) * 300_000 for n in range(20))
    assert [blob[0] for blob in client.stream("blobs")] == list(range(20))


def test_an_empty_stream(client: Client) -> None:
    assert list(client.stream("countdown", start=0)) == []


def test_a_slow_reader_slows_the_tool(client: Client, router: Router) -> None:
    block = b"x" * 1_000_000
    produced = []

    def blocks(run: Any) -> Iterator[bytes]:
        for number in range(200):
            if not run.context.is_active():
                return
            produced.append(number)
            yield block

    router.tools["blocks"] = blocks
    with client.stream("blocks") as stream:
        next(stream)
        assert len(produced) < 100


def test_progress_is_delivered_only_when_asked_for(client: Client, router: Router) -> None:
    def train(run: Any) -> Iterator[Any]:
        yield messages.Progress(fraction=0.5, message="epoch 1/2")
        yield "model"
        yield messages.Progress(fraction=1.0, message="done")

    router.tools["train"] = train
    reports: list[Progress] = []
    assert list(client.stream("train", progress=reports.append)) == ["model"]
    assert reports == [Progress(0.5, "epoch 1/2"), Progress(1.0, "done")]
    assert list(client.stream("train")) == ["model"]
    assert list(client.stream("train", progress=3)) == ["model"]  # no callable: an argument of the tool
    assert [seen.arguments for seen in router.calls("ExecuteStream")] == [{}, {}, {"progress": 3}]


def test_an_exception_comes_after_the_values(client: Client, router: Router) -> None:
    def fails(run: Any) -> Iterator[int]:
        yield 1
        yield 2
        raise adapter_raised("ValueError", "third", args=["third"], traceback="Traceback\nValueError: third")

    router.tools["fails"] = fails
    stream = client.stream("fails")
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="third") as caught:
        next(stream)
    assert isinstance(caught.value, api.RemoteError)
    assert next(stream, "end") == "end"


def test_a_refused_stream_raises_at_the_first_value(client: Client) -> None:
    with pytest.raises(api.ToolUnknown):
        next(client.stream("missing"))


def test_bad_arguments_are_refused_at_once(client: Client) -> None:
    with pytest.raises(api.InvalidArguments):
        client.stream("countdown", start=object())


def test_closing_cancels(client: Client, router: Router) -> None:
    endless = Endless(router)
    stream = client.stream("endless")
    assert next(stream) == 1
    stream.close()
    stream.close()
    assert endless.cancelled.wait(5)
    assert list(stream) == []


def test_leaving_the_loop_cancels(client: Client, router: Router) -> None:
    endless = Endless(router)
    for value in client.stream("endless"):
        if value == 3:
            break
    gc.collect()
    assert endless.cancelled.wait(5)


def test_leaving_the_with_block_cancels(client: Client, router: Router) -> None:
    endless = Endless(router)
    with pytest.raises(ZeroDivisionError), client.stream("endless") as stream:
        next(stream)
        raise ZeroDivisionError
    assert endless.cancelled.wait(5)


def test_another_thread_may_close(client: Client, router: Router) -> None:
    entered = threading.Event()

    def waits(run: Any) -> Iterator[int]:
        entered.set()
        run.wait_cancelled()
        yield 1

    router.tools["waits"] = waits
    stream = client.stream("waits")
    with ThreadPoolExecutor(1) as threads:
        values = threads.submit(list, stream)
        assert entered.wait(5)
        stream.close()
        assert values.result(5) == []


def test_the_deadline_holds_for_the_whole_stream(client: Client, router: Router) -> None:
    def slow(run: Any) -> Iterator[int]:
        yield 1
        run.wait_cancelled()

    router.tools["slow"] = slow
    stream = client.with_options(timeout=0.3).stream("slow")
    assert next(stream) == 1
    with pytest.raises(api.DeadlineExceeded):
        next(stream)


def test_a_stream_belongs_to_its_session(client: Client, router: Router) -> None:
    with client.session("s") as session:
        stream = session.stream("countdown", start=2)
        assert next(stream) == 2
        token = session.token  # known from the first value on, while the stream runs
        assert token == router.lives["s"].token
        assert list(stream) == [1]
        session.add(a=1, b=1)
    assert router.calls()[0].metadata["snakepit-session-token"] == token


def test_a_session_lost_in_a_stream_ends_the_object(client: Client, router: Router) -> None:
    def dies(run: Any) -> Iterator[int]:
        yield 1
        raise Failure("ABORTED", "SESSION_LOST", "lost", {"cause": "DRAIN", "execution": "MAYBE_EXECUTED"})

    router.tools["dies"] = dies
    session = client.session("s")
    stream = session.stream("dies")
    assert next(stream) == 1
    with pytest.raises(api.SessionLost) as caught:
        next(stream)
    assert (caught.value.cause, caught.value.execution) == ("DRAIN", "MAYBE_EXECUTED")
    with pytest.raises(api.SessionLost):
        session.add(a=1, b=2)
    assert router.calls() == []
