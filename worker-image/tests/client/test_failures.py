"""From a status to the exception: every reason, adapter exceptions, broken links, deadlines."""

from __future__ import annotations

import copy
import pickle
import re
import socket
import struct
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.fake_router import Failure, Router, adapter_raised
from snakepit import Client, messages
from snakepit import client as api
from snakepit.client import errors
from snakepit.client.remote import _DOUBLED, rebuild


def fails_with(failure: Failure) -> Any:
    """Return a tool that always ends with this failure."""

    def tool(run: Any) -> Any:
        raise failure

    return tool


# reason, code, class, execution when the router does not say
REASONS = [
    ("ARGUMENT_INVALID", "INVALID_ARGUMENT", api.InvalidArguments, "NOT_STARTED"),
    ("TOOL_UNKNOWN", "NOT_FOUND", api.ToolUnknown, "NOT_STARTED"),
    ("METHOD_UNKNOWN", "UNIMPLEMENTED", api.MethodUnknown, "NOT_STARTED"),
    ("ADAPTER_EXCEPTION", "UNKNOWN", api.RemoteError, "FAILED"),
    ("WORKER_BUSY", "RESOURCE_EXHAUSTED", api.WorkerBusy, "NOT_STARTED"),
    ("QUEUE_FULL", "RESOURCE_EXHAUSTED", api.QueueFull, "NOT_STARTED"),
    ("QUEUE_TIMEOUT", "RESOURCE_EXHAUSTED", api.QueueTimeout, "NOT_STARTED"),
    ("DEADLINE_UNREACHABLE", "RESOURCE_EXHAUSTED", api.DeadlineUnreachable, "NOT_STARTED"),
    ("NO_READY_WORKER", "UNAVAILABLE", api.NotReady, "NOT_STARTED"),
    ("RECOVERING", "UNAVAILABLE", api.Recovering, "NOT_STARTED"),
    ("DRAINING", "UNAVAILABLE", api.Draining, "NOT_STARTED"),
    ("WORKER_DIED", "UNAVAILABLE", api.WorkerDied, "NOT_STARTED"),
    ("WORKER_DIED", "ABORTED", api.WorkerDied, "MAYBE_EXECUTED"),
    ("ALREADY_EXECUTED", "ABORTED", api.AlreadyExecuted, "MAYBE_EXECUTED"),
    ("SESSION_LOST", "ABORTED", api.SessionLost, "NOT_STARTED"),
    ("SESSION_EXPIRED", "FAILED_PRECONDITION", api.SessionExpired, "NOT_STARTED"),
    ("SESSION_UNKNOWN", "FAILED_PRECONDITION", api.SessionUnknown, "NOT_STARTED"),
    ("CALL_TIMEOUT", "DEADLINE_EXCEEDED", api.CallTimeout, "MAYBE_EXECUTED"),
    ("DEADLINE_PASSED", "DEADLINE_EXCEEDED", api.DeadlineExceeded, "MAYBE_EXECUTED"),
    ("REQUEST_QUARANTINED", "FAILED_PRECONDITION", api.RequestQuarantined, "NOT_STARTED"),
    ("MESSAGE_TOO_LARGE", "RESOURCE_EXHAUSTED", api.MessageTooLarge, "NOT_STARTED"),
    ("OF_A_LATER_ROUTER", "INTERNAL", api.SnakepitError, "MAYBE_EXECUTED"),
]


@pytest.mark.parametrize(("reason", "code", "kind", "execution"), REASONS)
def test_every_reason_has_its_class(
    client: Client, router: Router, reason: str, code: str, kind: type[api.SnakepitError], execution: str
) -> None:
    info = {"worker": "pod-0/3", "cause": "x"}
    router.tools["fail"] = fails_with(Failure(code, reason, "what happened", info, pushback="-1"))
    with pytest.raises(api.SnakepitError, match="what happened") as caught:
        client.fail()
    error = caught.value
    assert type(error) is kind
    assert (error.reason, error.code, error.execution) == (reason, code, execution)
    assert (error.worker, error.tool, error.session) == ("pod-0/3", "fail", "")
    assert error.details["cause"] == "x"
    assert error.request_id == router.calls()[0].metadata["snakepit-request-id"]
    assert not error.retryable
    assert len(router.calls()) == 1
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert (str(twin), twin.__dict__) == (str(error), error.__dict__)


def test_the_table_of_reasons_is_whole() -> None:
    listed = {reason for reason, *_ in REASONS} - {"ADAPTER_EXCEPTION", "OF_A_LATER_ROUTER"}
    assert listed == set(errors.BY_REASON)


def test_what_the_router_says_of_the_execution_counts(client: Client, router: Router) -> None:
    router.tools["fail"] = fails_with(Failure("ABORTED", "WORKER_DIED", info={"execution": "NOT_STARTED"}))
    with pytest.raises(api.WorkerDied) as caught:
        client.fail()
    assert caught.value.execution == "NOT_STARTED"


def test_invalid_arguments_list_every_field(client: Client, router: Router) -> None:
    violations = [("a", "an int, not str"), ("b.c[0]", "a float, not None")]
    router.tools["fail"] = fails_with(
        Failure("INVALID_ARGUMENT", "ARGUMENT_INVALID", "arguments of fail", violations=violations)
    )
    with pytest.raises(ValueError, match=r"(?s)arguments of fail.*a: an int.*b\.c\[0\]: a float") as caught:
        client.fail(a="1")
    assert isinstance(caught.value, api.InvalidArguments)
    assert caught.value.violations == tuple(violations)


def test_one_bad_field_is_said_once(client: Client, router: Router) -> None:
    violation = ("snakepit-tenant", "is too long")
    router.tools["fail"] = fails_with(
        Failure("INVALID_ARGUMENT", "ARGUMENT_INVALID", "snakepit-tenant: is too long", violations=[violation])
    )
    with pytest.raises(api.InvalidArguments) as caught:
        client.fail()
    assert str(caught.value) == "snakepit-tenant: is too long"


def test_busy_names_the_call_that_blocks(client: Client, router: Router) -> None:
    router.tools["fail"] = fails_with(Failure("RESOURCE_EXHAUSTED", "WORKER_BUSY", info={"blocked_by": "order-6"}))
    with pytest.raises(api.WorkerBusy) as caught:
        client.fail()
    assert caught.value.blocked_by == "order-6"


def test_a_reason_of_another_domain_is_none(client: Client, router: Router) -> None:
    router.tools["fail"] = fails_with(Failure("UNAVAILABLE", "QUEUE_FULL", "of a proxy", domain="example.com"))
    with pytest.raises(api.TransportError, match="of a proxy") as caught:
        client.fail()
    assert (caught.value.reason, caught.value.execution) == ("", "MAYBE_EXECUTED")


# ---- exceptions of the adapter


@pytest.mark.parametrize("name", sorted(_DOUBLED))
def test_an_adapter_exception_is_its_built_in_type(client: Client, router: Router, name: str) -> None:
    builtin = _DOUBLED[name]
    args = [2, "no such thing"] if issubclass(builtin, OSError) else ["missing"]
    original = builtin(*args)
    router.tools["fail"] = fails_with(adapter_raised(name, str(original), args=args, bases=[name]))
    with pytest.raises(builtin) as caught:
        client.fail()
    error: Any = caught.value
    assert isinstance(error, api.RemoteError)
    assert (str(error), error.args) == (str(original), original.args)
    assert (error.remote_type, error.reason, error.execution) == (name, "ADAPTER_EXCEPTION", "FAILED")
    assert (error.worker, error.tool) == ("pod-0/0", "fail")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert twin.__dict__ == error.__dict__


def test_os_error_has_its_errno(client: Client, router: Router) -> None:
    failure = adapter_raised("FileNotFoundError", "[Errno 2] No such file: 'x'", args=[2, "No such file"])
    router.tools["fail"] = fails_with(failure)
    with pytest.raises(FileNotFoundError) as caught:
        client.fail()
    assert (caught.value.errno, caught.value.strerror) == (2, "No such file")
    assert str(caught.value) == "[Errno 2] No such file: 'x'"


def test_a_key_error_reads_as_at_home(client: Client, router: Router) -> None:
    router.tools["fail"] = fails_with(adapter_raised("KeyError", "'k'", args=["k"]))
    with pytest.raises(LookupError) as caught:
        client.fail()
    assert str(caught.value) == str(KeyError("k"))
    assert caught.value.args == ("k",)


def test_a_class_of_the_adapter_is_its_nearest_built_in(client: Client, router: Router) -> None:
    failure = adapter_raised("shop.errors.Rejected", "no", args=[7, "no"], bases=["LookupError", "Exception"])
    router.tools["fail"] = fails_with(failure)
    with pytest.raises(LookupError) as caught:
        client.fail()
    assert isinstance(caught.value, api.RemoteError)
    assert caught.value.remote_type == "shop.errors.Rejected"
    assert not isinstance(caught.value, KeyError)


@pytest.mark.parametrize("name", ["ExceptionGroup", "SyntaxError", "StopIteration", "KeyboardInterrupt", "app.Odd"])
def test_other_types_are_plain_remote_errors(client: Client, router: Router, name: str) -> None:
    router.tools["fail"] = fails_with(adapter_raised(name, "odd", bases=[name, "Exception"]))
    with pytest.raises(api.RemoteError, match="odd") as caught:
        client.fail()
    assert type(caught.value) is api.RemoteError
    assert caught.value.remote_type == name


def test_the_remote_traceback_prints_below_the_local_one(client: Client, router: Router) -> None:
    text = 'Traceback (most recent call last):\n  File "shop.py", line 7, in fail\nValueError: bad\n'
    router.tools["fail"] = fails_with(adapter_raised("ValueError", "bad", args=["bad"], traceback=text))
    with pytest.raises(ValueError, match="bad") as caught:
        client.fail()
    printed = "".join(traceback.format_exception(caught.value))
    local, remote = printed.index("in test_the_remote"), printed.index('File "shop.py", line 7')
    assert local < remote
    assert "RemoteValueError: bad" in printed
    assert "Remote traceback in worker pod-0/0:" in printed
    assert caught.value.remote_traceback == text  # type: ignore[attr-defined]


def test_without_a_body_the_details_tell(client: Client, router: Router) -> None:
    info = {"type": "Rejected", "module": "shop.errors"}
    failure = Failure("NOT_FOUND", "ADAPTER_EXCEPTION", "no such order", info, traceback=["Traceback", "x"])
    router.tools["fail"] = fails_with(failure)
    with pytest.raises(api.RemoteError, match="no such order") as caught:
        client.fail()
    assert (caught.value.code, caught.value.remote_type) == ("NOT_FOUND", "shop.errors.Rejected")
    assert caught.value.remote_traceback == "Traceback\nx"


def test_a_body_without_details_is_enough(client: Client, router: Router) -> None:
    failure = adapter_raised("ValueError", "bad")
    failure.reason = ""
    router.tools["fail"] = fails_with(failure)
    with pytest.raises(ValueError, match="bad") as caught:
        client.fail()
    assert caught.value.execution == "FAILED"  # type: ignore[attr-defined]


@given(
    name=st.sampled_from([*sorted(_DOUBLED), "ModuleNotFoundError", "UnicodeDecodeError", "x.Y", ""]),
    message=st.text(),
    args=st.lists(st.none() | st.integers() | st.text() | st.floats(allow_nan=False) | st.binary(), max_size=6),
    bases=st.lists(st.sampled_from(["ImportError", "ValueError", "OSError", "Exception", "nonsense"]), max_size=4),
)
def test_any_remote_error_can_be_rebuilt(name: str, message: str, args: list[Any], bases: list[str]) -> None:
    error = rebuild(message, remote_type=name, bases=bases, args=args, traceback="t")
    assert str(error) == message
    assert error.args == tuple(args or [message])
    wanted = next((_DOUBLED[base] for base in (name, *bases) if base in _DOUBLED), api.RemoteError)
    assert isinstance(error, wanted)
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), twin.args, str(twin)) == (type(error), error.args, message)


# ---- deadlines and broken links


def test_the_clients_own_deadline_is_a_timeout_error(client: Client, router: Router) -> None:
    router.tools["hang"] = lambda run: run.wait_cancelled()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s") as caught:
        client.with_options(timeout=0.2).hang()
    assert time.monotonic() - began < 10
    error = caught.value
    assert type(error) is api.DeadlineExceeded
    assert not isinstance(error, api.RemoteError)
    assert (error.code, error.execution) == ("DEADLINE_EXCEEDED", "MAYBE_EXECUTED")
    assert type(pickle.loads(pickle.dumps(error))) is api.DeadlineExceeded


def test_a_router_that_is_not_there(router: Router) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody else can take the port
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            Client(address, timeout=5) as client,
            pytest.raises(api.TransportError, match="kubectl get wpool") as caught,
        ):
            client.add(a=1, b=2)
    error = caught.value
    assert address in str(error)
    assert (error.execution, error.retryable, error.code) == ("NOT_STARTED", True, "UNAVAILABLE")


def test_a_name_that_does_not_resolve() -> None:
    with Client("no-such-pool.invalid", timeout=5) as client, pytest.raises(api.TransportError) as caught:
        client.add(a=1, b=2)
    assert "no-such-pool.invalid:50051" in str(caught.value)
    assert caught.value.execution == "NOT_STARTED"


def test_a_router_that_breaks_off(client: Client, router: Router) -> None:
    entered = threading.Event()

    def hang(run: Any) -> int:
        entered.set()
        run.wait_cancelled()
        return 1

    router.tools["hang"] = hang
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.call, "hang")
        assert entered.wait(5)
        router.stop()
        with pytest.raises(api.TransportError, match="may have been executed") as caught:
            running.result(5)
    assert (caught.value.execution, caught.value.retryable) == ("MAYBE_EXECUTED", False)


def _reset_after_headers(listener: socket.socket) -> None:
    """Speak just enough HTTP/2 to be sent a request, then reset the connection."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        connection.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")  # empty SETTINGS
        stream.read(24)  # the preface
        kind = -1
        while kind != 1:  # HEADERS
            header = stream.read(9)
            stream.read(int.from_bytes(header[:3]))
            kind = header[3]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_connection_that_is_reset_once_the_call_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_reset_after_headers, args=(listener,))
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Client(address, timeout=5) as client, pytest.raises(api.TransportError) as caught:
            client.add(a=1, b=2)
        thread.join(5)
    assert caught.value.execution == "MAYBE_EXECUTED"


def test_a_server_that_is_no_router(client: Client, router: Router) -> None:
    router.tools["fail"] = fails_with(Failure("UNIMPLEMENTED", "", "unknown service"))
    with pytest.raises(api.MethodUnknown, match="not a Snakepit router"):
        client.fail()


def test_an_answer_without_a_result(client: Client, router: Router) -> None:
    router._execute = lambda seen, context: iter([messages.ExecuteResponse()])  # type: ignore[method-assign]
    with pytest.raises(api.SnakepitError, match="without an answer"):
        client.add(a=1, b=2)
    router._execute = lambda seen, context: iter([])  # type: ignore[method-assign]
    with pytest.raises(api.SnakepitError, match="without an answer"):
        client.add(a=1, b=2)


def test_details_that_do_not_parse_hide_nothing(client: Client, router: Router) -> None:
    failure = Failure("ABORTED", "WORKER_DIED", "the worker ended")
    failure.details = lambda: b"\xff\xff"  # type: ignore[method-assign]
    router.tools["fail"] = fails_with(failure)
    with pytest.raises(api.TransportError, match="the worker ended") as caught:
        client.fail()
    assert caught.value.code == "ABORTED"


def test_long_trailers_do_not_lose_the_error(client: Client, router: Router) -> None:
    failure = Failure("ABORTED", "WORKER_DIED", "the worker ended", {"cause": "x" * 20_000})
    router.tools["fail"] = fails_with(failure)
    with pytest.raises(api.WorkerDied, match="the worker ended"):
        client.fail()


def test_the_error_catalogue_names_the_class_of_every_reason() -> None:
    page = Path(__file__).parents[3] / "docs/reference/errors.md"
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("| `")]
    told = {(reason, cells[3]) for cells in rows for reason in re.findall("`([A-Z_]+)`", cells[1])}
    assert len(told) > 20
    classes = errors.BY_REASON | {"ADAPTER_EXCEPTION": api.RemoteError}
    assert [
        reason for reason, cell in told if f"`{classes.get(reason, errors.SnakepitError).__name__}`" not in cell
    ] == []
    assert classes.keys() - {reason for reason, _ in told} == {"DEADLINE_PASSED"}  # the client's own
