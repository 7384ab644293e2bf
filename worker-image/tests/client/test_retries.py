"""The one retry rule: refusals with a wait hint, within the deadline, at most twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from client.fake_router import Failure, Router
from snakepit import Client
from snakepit import client as api


def fails_first(times: int, failure: Failure) -> Callable[[Any], Any]:
    """Return a tool that fails so often, then answers."""
    left = [times]

    def tool(run: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise failure
        return [1, 2] if run.seen.method == "ExecuteStream" else "answer"

    return tool


HINT = Failure("RESOURCE_EXHAUSTED", "QUEUE_FULL", pushback="20")


@pytest.mark.parametrize("times", [1, 2])
def test_a_refusal_with_a_hint_is_repeated(client: Client, router: Router, times: int) -> None:
    router.tools["t"] = fails_first(times, HINT)
    began = time.monotonic()
    assert client.t() == "answer"
    assert time.monotonic() - began >= 0.02 * times
    seen = router.calls()
    assert len(seen) == times + 1
    assert len({call.metadata["snakepit-request-id"] for call in seen}) == 1


def test_repeats_share_the_deadline(client: Client, router: Router) -> None:
    router.tools["t"] = fails_first(1, Failure("RESOURCE_EXHAUSTED", "QUEUE_FULL", pushback="300"))
    client.with_options(timeout=2).t()
    first, second = router.calls()
    assert first.time_remaining - second.time_remaining > 0.2


def test_at_most_twice(client: Client, router: Router) -> None:
    router.tools["t"] = fails_first(3, HINT)
    with pytest.raises(api.QueueFull) as caught:
        client.t()
    assert len(router.calls()) == 3
    assert caught.value.retryable
    assert caught.value.retry_after == 0.02


def test_retry_info_is_a_hint_too(client: Client, router: Router) -> None:
    router.tools["t"] = fails_first(1, Failure("UNAVAILABLE", "RECOVERING", retry_info=0.02))
    assert client.t() == "answer"


@pytest.mark.parametrize(
    "failure",
    [
        Failure("UNAVAILABLE", "NO_READY_WORKER"),
        Failure("UNAVAILABLE", "NO_READY_WORKER", pushback="-1", retry_info=0.01),
        Failure("UNAVAILABLE", "NO_READY_WORKER", pushback="soon"),
        Failure("ABORTED", "WORKER_DIED", pushback="20"),
        Failure("ABORTED", "WORKER_DIED", pushback="-1"),
        Failure("ABORTED", "SESSION_LOST", pushback="20"),
        Failure("FAILED_PRECONDITION", "SESSION_EXPIRED", pushback="20"),
        Failure("UNAVAILABLE", "", "connection lost"),
        Failure("DEADLINE_EXCEEDED", "CALL_TIMEOUT", pushback="20"),
        Failure("UNKNOWN", "ADAPTER_EXCEPTION", pushback="20"),
        Failure("RESOURCE_EXHAUSTED", "QUEUE_FULL", pushback="20", info={"execution": "MAYBE_EXECUTED"}),
    ],
    ids=lambda failure: f"{failure.reason}-{failure.pushback}",
)
def test_everything_else_is_not(client: Client, router: Router, failure: Failure) -> None:
    router.tools["t"] = fails_first(1, failure)
    with pytest.raises(api.SnakepitError):
        client.t()
    assert len(router.calls()) == 1


def test_a_hint_beyond_the_deadline_fails_at_once(client: Client, router: Router) -> None:
    router.tools["t"] = fails_first(1, Failure("RESOURCE_EXHAUSTED", "QUEUE_FULL", pushback="60000"))
    began = time.monotonic()
    with pytest.raises(api.QueueFull):
        client.with_options(timeout=30).t()
    assert time.monotonic() - began < 10
    assert len(router.calls()) == 1


def test_idempotent_calls_survive_a_broken_link(client: Client, router: Router) -> None:
    router.tools["t"] = fails_first(2, Failure("UNAVAILABLE", "", "Socket closed"))
    assert client.with_options(idempotent=True).t() == "answer"
    assert len(router.calls()) == 3


@pytest.mark.parametrize(
    "failure", [Failure("ABORTED", "WORKER_DIED", pushback="-1"), Failure("UNAVAILABLE", "", pushback="-1")]
)
def test_idempotent_calls_obey_the_no_retry_mark(client: Client, router: Router, failure: Failure) -> None:
    router.tools["t"] = fails_first(1, failure)
    with pytest.raises(api.SnakepitError):
        client.with_options(idempotent=True).t()
    assert len(router.calls()) == 1


def test_a_stream_is_repeated_before_its_first_value(client: Client, router: Router) -> None:
    router.tools["t"] = fails_first(1, HINT)
    assert list(client.stream("t")) == [1, 2]
    assert len(router.calls("ExecuteStream")) == 2


def test_a_stream_is_never_repeated_after_it(client: Client, router: Router) -> None:
    def tool(run: Any) -> Any:
        yield 1
        raise HINT

    router.tools["t"] = tool
    stream = client.with_options(idempotent=True).stream("t")
    assert next(stream) == 1
    with pytest.raises(api.QueueFull):
        next(stream)
    assert len(router.calls("ExecuteStream")) == 1


def test_a_repeat_in_a_session_is_the_same_call(client: Client, router: Router) -> None:
    router.tools["t"] = fails_first(1, HINT)
    with client.session("s") as session:
        assert session.t() == "answer"
    first, second = router.calls()
    assert first.metadata["snakepit-session-create"] == second.metadata["snakepit-session-create"] == "true"
    assert first.metadata["snakepit-request-id"] == second.metadata["snakepit-request-id"]


def test_closing_the_client_ends_the_wait(client: Client, router: Router) -> None:
    import threading

    def tool(run: Any) -> Any:
        threading.Timer(0.1, client.close).start()
        raise Failure("RESOURCE_EXHAUSTED", "QUEUE_FULL", pushback="30000")

    router.tools["t"] = tool
    began = time.monotonic()
    with pytest.raises(api.QueueFull):
        client.with_options(timeout=60).t()
    assert time.monotonic() - began < 10
