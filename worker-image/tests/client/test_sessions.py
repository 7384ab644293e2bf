"""Sessions: the create flag, tokens, loss and reopening, closing."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.fake_router import Failure, Router
from snakepit import Client
from snakepit import client as api


@pytest.fixture(autouse=True)
def tools(router: Router) -> None:
    """Give the router a counter for each life."""

    def count(run: Any) -> int:
        run.state["count"] = run.state.get("count", 0) + 1
        return int(run.state["count"])

    router.tools["count"] = count


def keys(seen: Any) -> dict[str, str]:
    """Return what a call says of its session."""
    return {key[9:]: value for key, value in seen.metadata.items() if key.startswith("snakepit-session")}


def raising(failure: Exception) -> Callable[[Any], Any]:
    """Return a tool that fails."""

    def tool(run: Any) -> Any:
        raise failure

    return tool


def test_the_first_call_creates_and_later_ones_carry_the_token(client: Client, router: Router) -> None:
    with client.session("user-42") as session:
        assert [session.count(), session.call("count"), session.count()] == [1, 2, 3]
        token = session.token
        assert (session.name, session.state, session.worker) == ("user-42", "bound", "pod-0/0")
    first, second, third = router.calls()
    assert keys(first) == {"session": "user-42", "session-create": "true"}
    assert keys(second) == keys(third) == {"session": "user-42", "session-token": token}
    (closed,) = router.calls("CloseSession")
    assert keys(closed) == {"session": "user-42", "session-token": token}
    assert router.lives == {}


def test_names_are_generated(client: Client) -> None:
    names = {client.session().name for _ in range(50)}
    assert len(names) == 50
    with client.session() as session:
        assert session.count() == 1
        assert session.name.startswith("py-")


@pytest.mark.parametrize("name", ["", "a b", "a,b", "x" * 129, "ü", "a\n", 7])
def test_bad_names_are_refused_before_anything_is_sent(client: Client, name: Any) -> None:
    with pytest.raises(api.InvalidArguments, match="session: 1 to 128"):
        client.session(name)


def test_affinity_is_sent_and_checked(client: Client, router: Router) -> None:
    with client.session("s", affinity="strict-fail-fast") as session:
        session.count()
    assert router.calls()[0].metadata["snakepit-affinity"] == "strict-fail-fast"
    with pytest.raises(api.InvalidArguments, match="affinity: one of hint"):
        client.session("s", affinity="Strict")  # type: ignore[arg-type]


def test_without_create_the_session_must_live(client: Client, router: Router) -> None:
    joining = client.session("s", create=False)
    with pytest.raises(api.SessionUnknown):
        joining.count()
    assert keys(router.calls()[0]) == {"session": "s"}
    with client.session("s") as session:
        session.count()
        assert joining.count() == 2
        assert joining.token == session.token


def test_a_loss_is_told_until_reopened(client: Client, router: Router) -> None:
    with client.session("s") as session:
        session.count()
        router.lose("s")
        with pytest.raises(api.SessionLost, match="session s is lost") as caught:
            session.count()
        lost = caught.value
        assert (lost.cause, lost.epoch, lost.worker, lost.session) == ("WORKER_DIED", 1001, "pod-0/3", "s")
        calls = len(router.seen)
        for attempt in (session.count, lambda: session.stream("count"), session.with_options(timeout=2).count):
            with pytest.raises(api.SessionLost, match="session s is lost"):
                attempt()
        assert len(router.seen) == calls  # refused here, the router was not asked
        session.reopen()
        assert (session.token, session.worker, session.state) == ("", "", "")
        assert session.count() == 1
        assert session.state == "new"
        assert keys(router.calls()[-1]) == {"session": "s", "session-create": "true"}
        assert session.count() == 2


def test_a_lost_session_is_not_closed_at_the_router(client: Client, router: Router) -> None:
    with pytest.raises(api.SessionLost), client.session("s") as session:
        session.count()
        router.lose("s")
        session.count()
    assert router.calls("CloseSession") == []


def test_the_errors_of_a_lost_session_are_separate_objects(client: Client, router: Router) -> None:
    session = client.session("s")
    session.count()
    router.lose("s")
    caught = []
    for _ in range(3):
        with pytest.raises(api.SessionLost) as info:
            session.count()
        caught.append(info.value)
    assert len({id(error) for error in caught}) == 3
    assert len({error.__traceback__ for error in caught}) == 3


def test_expiry_ends_the_object_too(client: Client, router: Router) -> None:
    session = client.session("s")
    session.count()
    del router.lives["s"]
    for _ in range(2):
        with pytest.raises(api.SessionExpired):
            session.count()
    assert len(router.calls()) == 2
    session.reopen()
    assert session.count() == 1


@pytest.mark.parametrize("place", ["trailers", "details"])
def test_a_worker_that_dies_in_the_first_call_is_not_forgotten(client: Client, router: Router, place: str) -> None:
    def die(run: Any) -> Any:
        token = router.lives["s"].token
        router.lose("s")
        failure = Failure("ABORTED", "WORKER_DIED", "the worker ended")
        if place == "trailers":
            failure.trailers = [("snakepit-session-token", token)]
        else:
            failure.info = {"token": token}
        raise failure

    router.tools["die"] = die
    session = client.session("s")
    with pytest.raises(api.WorkerDied):
        session.die()
    assert session.token  # of the lost life: with it the router must tell
    with pytest.raises(api.SessionLost):
        session.count()


def test_reopen_acknowledges_a_worker_that_died(client: Client, router: Router) -> None:
    def die(run: Any) -> Any:
        router.lose("s")
        raise Failure("ABORTED", "WORKER_DIED", "the worker ended")

    router.tools["die"] = die
    session = client.session("s")
    session.count()
    with pytest.raises(api.WorkerDied):
        session.die()
    session.reopen()
    assert session.count() == 1


def test_reopen_of_a_living_session_keeps_its_token(client: Client, router: Router) -> None:
    session = client.session("s")
    session.count()
    session.reopen()
    router.lose("s")
    with pytest.raises(api.SessionLost):
        session.count()


def test_a_refusal_does_not_end_the_session(client: Client, router: Router) -> None:
    router.tools["busy"] = raising(Failure("RESOURCE_EXHAUSTED", "WORKER_BUSY"))
    router.tools["bad"] = raising(Failure("UNKNOWN", "ADAPTER_EXCEPTION", info={"type": "ValueError"}))
    with client.session("s") as session:
        session.count()
        with pytest.raises(api.WorkerBusy):
            session.busy()
        with pytest.raises(ValueError, match="refused"):
            session.bad()
        assert session.count() == 2


def test_an_answer_of_an_earlier_life_changes_nothing(client: Client, router: Router) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(run: Any) -> int:
        entered.set()
        leave.wait(5)
        return 1

    router.tools["slow"] = slow
    session = client.session("s")
    session.count()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(session.slow)
        assert entered.wait(5)
        old = session.token
        router.lose("s")
        with pytest.raises(api.SessionLost):
            session.count()
        session.reopen()
        session.count()
        leave.set()
        assert running.result(5) == 1
    assert session.token == router.lives["s"].token != old


def test_when_the_worker_will_end_is_read(client: Client, router: Router) -> None:
    session = client.session("s")
    router.headers = [("snakepit-session-ends-at", "2030-01-02T03:04:05Z")]
    session.count()
    assert session.ends_at == datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    router.headers = [("snakepit-session-ends-at", "1900000000")]
    session.count()
    assert session.ends_at == datetime.datetime.fromtimestamp(1900000000, datetime.UTC)
    router.headers = [("snakepit-session-ends-at", "soon")]
    session.count()
    assert session.ends_at is None


# ---- closing


def test_a_session_that_was_never_called_is_not_closed_at_the_router(client: Client, router: Router) -> None:
    with client.session("s"):
        pass
    assert router.seen == []


def test_a_closed_session_refuses(client: Client, router: Router) -> None:
    with client.session("s") as session:
        session.count()
    for use in (session.count, session.reopen, lambda: session.stream("count")):
        with pytest.raises(api.Closed, match="session s is closed"):
            use()
    session.close()
    assert len(router.calls("CloseSession")) == 1


def test_the_exception_of_the_body_is_never_masked(
    client: Client, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    router.close_failure = Failure("UNAVAILABLE", "DRAINING", "going down")
    with pytest.raises(ZeroDivisionError), client.session("s") as session:
        session.count()
        raise ZeroDivisionError
    assert "session s was not closed" in caplog.text
    assert len(router.calls("CloseSession")) == 1


def test_an_explicit_close_tells_its_failure(client: Client, router: Router) -> None:
    router.close_failure = Failure("UNAVAILABLE", "DRAINING", "going down")
    session = client.session("s")
    session.count()
    with pytest.raises(api.Draining):
        session.close()


@pytest.mark.parametrize("reason", ["SESSION_LOST", "SESSION_EXPIRED", "SESSION_UNKNOWN"])
def test_closing_what_does_not_live_is_fine(client: Client, router: Router, reason: str) -> None:
    router.close_failure = Failure("ABORTED", reason)
    session = client.session("s")
    session.count()
    session.close()


def test_a_dropped_session_is_left_alone(client: Client, router: Router) -> None:
    session = client.session("s")
    session.count()
    del session
    assert router.calls("CloseSession") == []
    assert "s" in router.lives


def test_tenant_goes_along_with_the_close(client: Client, router: Router) -> None:
    with client.with_options(tenant="acme").session("s") as session:
        session.count()
    assert router.calls("CloseSession")[0].metadata["snakepit-tenant"] == "acme"


def test_closing_ends_open_streams_of_all_views(client: Client, router: Router) -> None:
    ended = threading.Event()

    def ticks(run: Any) -> Any:
        run.context.add_callback(ended.set)
        yield 1
        ended.wait(5)
        yield "after the close"

    router.tools["ticks"] = ticks
    with client.session("s") as session:
        stream = session.with_options(timeout=8).stream("ticks")
        assert next(stream) == 1
    assert list(stream) == []
    assert ended.wait(5)


# ---- many threads, and any order of events


def test_threads_share_a_session(client: Client, router: Router) -> None:
    lock = threading.Lock()
    count = router.tools["count"]

    def ordered(run: Any) -> Any:
        with lock:
            return count(run)

    router.tools["count"] = ordered
    with client.session("s") as session, ThreadPoolExecutor(12) as threads:
        counts = list(threads.map(lambda _: session.count(), range(100)))
    assert sorted(counts) == list(range(1, 101))
    assert all("session-create" in keys(seen) or "session-token" in keys(seen) for seen in router.calls())


EVENTS = st.lists(st.sampled_from(["call", "lose", "expire", "reopen", "stream"]), max_size=25)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_state_is_never_lost_silently(client: Client, router: Router, events: list[str]) -> None:
    """A count goes back to 1 only at the first call, and by a reopen after the end of the life was told."""
    router.tools["counts"] = lambda run: iter([router.tools["count"](run)])
    expected = 0
    over = told = False
    with client.session() as session:
        for event in events:
            if event in {"lose", "expire"} and session.name in router.lives:
                router.lose(session.name) if event == "lose" else router.lives.pop(session.name)
                over = True
            elif event == "reopen":
                session.reopen()
                if told:
                    expected, over, told = 0, False, False
            elif event in {"call", "stream"}:
                try:
                    got = session.count() if event == "call" else next(session.stream("counts"))
                except (api.SessionLost, api.SessionExpired):
                    assert over
                    told = True
                else:
                    assert not over
                    expected += 1
                    assert got == expected
