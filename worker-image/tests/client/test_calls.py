"""Calls without a session: arguments, answers, options."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.fake_router import Router
from snakepit import Client, messages
from snakepit.client import Closed, InvalidArguments, SnakepitError, ToolUnknown

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_call_and_its_short_form(client: Client, router: Router) -> None:
    assert client.call("add", a=1, b=2) == 3
    assert client.add(a=1, b=2) == 3
    assert [seen.tool for seen in router.calls()] == ["add", "add"]


def test_arguments_may_have_the_names_of_parameters(client: Client, router: Router) -> None:
    router.tools["names"] = lambda run: sorted(run.seen.arguments)
    assert client.call("names", tool=1, self=2, timeout=3, progress=4) == ["progress", "self", "timeout", "tool"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=PLAIN)
def test_values_come_back_as_they_went(client: Client, router: Router, value: Any) -> None:
    router.tools["echo"] = lambda run: run.seen.arguments["value"]
    answer = client.call("echo", value=value)
    assert answer == value
    assert type(answer) is type(value)


def test_every_call_has_a_deadline_and_its_own_request_id(client: Client, router: Router) -> None:
    client.add(a=1, b=2)
    client.add(a=1, b=2)
    first, second = router.calls()
    assert 5 < first.time_remaining < 11  # gRPC rounds up
    ids = [seen.metadata["snakepit-request-id"] for seen in (first, second)]
    assert ids[0] != ids[1]
    assert all(len(identifier) == 32 for identifier in ids)


def test_options_travel_and_leave_the_client_as_it_was(client: Client, router: Router) -> None:
    view = client.with_options(
        timeout=3,
        request_id="order-7",
        idempotent=True,
        tenant="acme",
        metadata={"traceparent": "00-ab", "x-bin": b"\0"},
    )
    view.add(a=1, b=2)
    client.add(a=1, b=2)
    changed, plain = router.calls()
    assert changed.time_remaining < 4
    wanted = {
        "snakepit-request-id": "order-7",
        "snakepit-idempotent": "true",
        "snakepit-tenant": "acme",
        "traceparent": "00-ab",
        "x-bin": b"\0",
    }
    assert wanted.items() <= changed.metadata.items()
    assert not {"snakepit-idempotent", "snakepit-tenant", "traceparent"} & plain.metadata.keys()


def test_views_add_up(client: Client, router: Router) -> None:
    client.with_options(tenant="acme").with_options(timeout=2).add(a=1, b=2)
    (seen,) = router.calls()
    assert seen.metadata["snakepit-tenant"] == "acme"
    assert seen.time_remaining < 3


def test_closing_a_view_does_not_close_the_client(client: Client) -> None:
    with client.with_options(timeout=2) as view:
        view.add(a=1, b=2)
    assert client.add(a=1, b=2) == 3


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.5}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": "3"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "a,b"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"tenant": "zwölf"}, "tenant"),
        ({"idempotent": "yes"}, "idempotent"),
        ({"metadata": {"Upper": "x"}}, "metadata['Upper']"),
        ({"metadata": {"snakepit-session": "x"}}, "metadata['snakepit-session']"),
        ({"metadata": {"grpc-timeout": "1S"}}, "metadata['grpc-timeout']"),
        ({"metadata": {"x": "a\nb"}}, "metadata['x']"),
        ({"metadata": {"x": b"a"}}, "metadata['x']"),
        ({"metadata": {"x-bin": "a"}}, "metadata['x-bin']"),
    ],
)
def test_bad_options_are_refused_by_name(client: Client, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        client.with_options(**options)
    assert caught.value.violations[0][0] == field
    assert field in str(caught.value)


def test_every_argument_that_cannot_travel_is_named(client: Client, router: Router) -> None:
    with pytest.raises(InvalidArguments) as caught:
        client.add(a=object(), b=[1, {2: 3}], c=1)
    assert [path for path, _ in caught.value.violations] == ["a", "b[1]"]
    assert caught.value.execution == "NOT_STARTED"
    assert router.seen == []


@pytest.mark.parametrize("tool", ["", None, 3])
def test_a_tool_needs_a_name(client: Client, tool: Any) -> None:
    with pytest.raises(InvalidArguments, match="tool"):
        client.call(tool)


def test_attributes_that_cannot_be_tools(client: Client) -> None:
    for name in ("worker", "token", "map", "submit", "_private", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(client, name)


def test_unknown_tool(client: Client) -> None:
    with pytest.raises(ToolUnknown, match="did you mean add") as caught:
        client.ad(a=1)
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.tool == "ad"


def test_tools_are_listed_with_their_schema(client: Client) -> None:
    add, countdown = client.tools()
    assert (add.name, add.description, add.parameters, add.idempotent) == ("add", "Adds.", {"type": "object"}, True)
    assert (countdown.streaming, countdown.parameters) == (True, {})


def test_many_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(16) as threads:
        sums = list(threads.map(lambda n: client.add(a=n, b=n), range(200)))
    assert sums == [2 * n for n in range(200)]


def test_a_closed_client_says_so(router: Router) -> None:
    client = Client(router.address)
    client.close()
    client.close()
    with pytest.raises(Closed, match="make a new one"):
        client.add(a=1, b=2)


def test_close_ends_running_calls(router: Router) -> None:
    router.tools["hang"] = lambda run: run.wait_cancelled()
    client = Client(router.address, timeout=10)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.call, "hang")
        deadline = time.monotonic() + 5
        while not router.calls() and time.monotonic() < deadline:
            time.sleep(0.005)
        client.close()
        with pytest.raises(Closed) as caught:
            running.result(5)
    assert caught.value.execution == "MAYBE_EXECUTED"


def test_an_answer_that_cannot_be_read_here(client: Client, router: Router) -> None:
    newer = messages.Value()
    newer.array.dtype = "of-a-newer-client"
    router.tools["array"] = lambda run: newer
    with pytest.raises(SnakepitError, match="array: the answer cannot be read here") as caught:
        client.call("array")
    assert caught.value.execution == "MAYBE_EXECUTED"
