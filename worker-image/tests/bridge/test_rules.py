"""The state machines: calls, credit, sessions, slots. Any order of events keeps their promises."""

from __future__ import annotations

import ast
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from snakepit.bridge import calls, protocol, sessions
from snakepit.bridge.calls import Verdict

BRIDGE = Path(protocol.__file__).parent
FORBIDDEN = {"asyncio", "threading", "time", "socket", "google", "snakepit.messages", "snakepit.bridge.messages"}


@pytest.mark.parametrize("name", ["protocol", "calls", "sessions", "supervision"])
def test_the_rules_know_no_input_or_output(name: str) -> None:
    imported = set()
    for node in ast.walk(ast.parse((BRIDGE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert not {module for module in imported if module in FORBIDDEN or module.partition(".")[0] in FORBIDDEN}


class Calls(RuleBasedStateMachine):
    """Every call ends exactly once: cancelled or recalled before it began, or begun and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.table: calls.CallTable[str] = calls.CallTable()
        self.last = 0
        self.waiting: set[int] = set()
        self.cancelled: set[int] = set()
        self.recalled: set[int] = set()
        self.terminal: dict[int, str] = {}

    def to_come(self, id: int) -> bool:
        return id > self.last or id in self.waiting

    def begin(self, id: int) -> None:
        verdict = self.table.begin(id, f"call {id}")
        if id in self.recalled:
            assert verdict is Verdict.RECALLED
        elif id in self.cancelled:
            assert verdict is Verdict.CANCELLED
        else:
            assert verdict is Verdict.BEGUN and self.table.running[id] == f"call {id}"
            return
        assert id not in self.table.running and id not in self.terminal
        self.terminal[id] = verdict.name

    @rule(skip=st.integers(1, 3))
    def call(self, skip: int) -> None:
        self.last += skip
        self.begin(self.last)

    @rule(skip=st.integers(1, 3))
    def see(self, skip: int) -> None:
        self.last += skip
        self.table.see(self.last)
        self.waiting.add(self.last)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def begin_later(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.discard(id)
        self.begin(id)

    @rule(ahead=st.integers(-3, 5))
    def cancel(self, ahead: int) -> None:
        id = max(1, self.last + ahead)
        running = self.table.running.get(id)
        assert self.table.cancel(id) == running
        if self.to_come(id):
            self.cancelled.add(id)

    @rule(ahead=st.integers(-3, 5))
    def recall(self, ahead: int) -> None:
        id = max(1, self.last + ahead)
        possible = self.to_come(id) and id not in self.recalled
        assert self.table.recall(id) == possible, "exactly what has not begun can be taken back, once"
        if self.to_come(id):
            self.recalled.add(id)

    @precondition(lambda self: self.table.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.table.running)))
        assert id not in self.terminal
        self.table.end(id)
        self.terminal[id] = "ended"
        with pytest.raises(protocol.ProtocolError):
            self.table.end(id)

    @rule()
    def reuse(self) -> None:
        if self.last and self.last not in self.waiting:
            with pytest.raises(protocol.ProtocolError):
                self.table.begin(self.last, "again")


TestCalls = Calls.TestCase


def test_remembered_cancels_are_bounded() -> None:
    table: calls.CallTable[str] = calls.CallTable()
    for id in range(1, 3000):
        table.cancel(id)
    assert table.begin(1, "one") is Verdict.BEGUN, "the oldest are forgotten"
    assert table.begin(2999, "last") is Verdict.CANCELLED


def test_a_promise_is_never_forgotten() -> None:
    table: calls.CallTable[str] = calls.CallTable()
    promised = [id for id in range(1, 3000) if table.recall(id)]
    assert len(promised) == calls.MAX_REMEMBERED
    assert [id for id in range(1, 3000) if table.begin(id, "x") is Verdict.RECALLED] == promised


@given(st.integers(0, 1 << 21), st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 19))))
def test_credit_is_never_exceeded(initial: int, steps: list[tuple[bool, int]]) -> None:
    credit = calls.Credit(initial)
    given_, taken = initial, 0
    for give, count in steps:
        if give:
            credit.give(count)
            given_ += count
        else:
            granted = credit.take(count)
            taken += granted
            assert granted <= min(count, protocol.MAX_PAYLOAD)
            assert granted == min(count, protocol.MAX_PAYLOAD) or taken == given_
    assert taken <= given_


@given(
    st.lists(st.lists(st.binary(max_size=100), min_size=1, max_size=5), max_size=8),
    st.integers(500, 1500),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_a_request_is_put_together_and_credit_comes_back(
    sent: list[list[bytes]], window: int, own_end: bool, random: Random
) -> None:
    """A router that respects its credit never stops for good, and never holds more than the window lets it."""
    request = calls.Request(window, 1 << 30)
    frames = [
        (piece, protocol.FLAG_MESSAGE | (protocol.FLAG_END_MESSAGE if number == len(message) - 1 else 0))
        for message in sent
        for number, piece in enumerate(message)
    ]
    if frames and not own_end:
        frames[-1] = (frames[-1][0], frames[-1][1] | protocol.FLAG_END_STREAM)
    else:
        frames.append((b"", protocol.FLAG_END_STREAM))
    credit, got = window, []
    for payload, flags in frames:
        while credit < len(payload) or random.random() < 0.3:
            message = request.take()
            if message is not None:
                got.append(message)
            credit += request.credit()
            if message is None:
                break
        credit += request.credit()
        assert credit >= len(payload), "the handler has taken all that is whole, and still there is no credit"
        credit -= len(payload)
        request.add(flags, payload)
    while (message := request.take()) is not None:
        got.append(message)
    assert got == [b"".join(message) for message in sent]
    assert request.ended and request.whole
    with pytest.raises(protocol.ProtocolError):
        request.add(protocol.FLAG_MESSAGE, b"more")


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(1, b"x" * 600), (1, b"x" * 500)], "beyond_credit"),
        ([(0, b"x")], "no_message"),
        ([(1, b"x"), (4, b"")], "message_cut"),
        ([(7, b"x"), (3, b"y")], "request_ended"),
        ([(4, b""), (4, b"")], "request_ended"),
    ],
)
def test_what_a_request_refuses(frames: list[tuple[int, bytes]], code: str) -> None:
    request = calls.Request(1000, 1 << 30)
    with pytest.raises(protocol.ProtocolError) as caught:
        for flags, payload in frames:
            request.add(flags, payload)
    assert caught.value.code == code


def test_a_request_that_is_too_large_is_let_go() -> None:
    request = calls.Request(1000, 100)
    request.add(3, b"y" * 10)
    request.add(1, b"x" * 101)
    assert request.too_large and request.whole and request.size == 101 and request.take() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40_000)), max_size=20))
def test_outcomes_run_once(calls_made: list[tuple[str, int]]) -> None:
    outcomes = sessions.Outcomes()
    first: dict[str, int] = {}
    for id, size in calls_made:
        outcome, new = outcomes.begin(id)
        assert new == (id not in first)
        if new:
            first[id] = size
            outcome.head(b"h")
            outcome.add(bytes(size))
            outcome.add(bytes(size))
            outcome.end(3, b"e")
        small = 2 * first[id] + 2 <= sessions.MAX_OUTCOME_BYTES
        assert outcome.complete == small
        assert outcome.messages == ([bytes(first[id])] * 2 if small else [])


def test_outcomes_are_bounded_and_a_running_call_has_none() -> None:
    outcomes = sessions.Outcomes()
    for number in range(100):
        assert outcomes.begin(str(number))[1]
    assert not outcomes.begin("99")[0].complete
    assert not outcomes.begin("99")[1]
    assert outcomes.begin("35")[1], "64 are kept"


class Sessions(RuleBasedStateMachine):
    """No life begins twice, or at or below an epoch that its name has seen, however small the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table: sessions.SessionTable[str] = sessions.SessionTable(max_floors=3)
        self.floors: dict[str, int] = {}
        self.held: dict[int, str] = {}
        self.epoch = 0

    @rule(name=st.sampled_from("abcdefg"), back=st.integers(0, 5), held=st.booleans())
    def open(self, name: str, back: int, held: bool) -> None:
        self.epoch += 2
        epoch = max(0, self.epoch - back)
        begun = self.table.begin(name, epoch)
        if begun:
            assert epoch > self.floors.get(name, 0)
            self.floors[name] = epoch
        if back == 0:
            assert begun, "a higher epoch than any other is always obeyed"
        if begun and held:
            self.table.hold(epoch, name)
            self.held[epoch] = name
        elif begun:
            self.table.fail(epoch, b"why")
            assert self.table.failure(epoch) == b"why"

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.held:
            epoch = data.draw(st.sampled_from(sorted(self.held)))
            assert self.table.drop(epoch) == self.held.pop(epoch)
            assert self.table.drop(epoch) is None
            assert not self.table.begin("a" if epoch % 2 else "b", 0)

    @invariant()
    def holds_exactly_what_is_open(self) -> None:
        assert sorted(self.table.epochs()) == sorted(self.held)
        assert all(self.table.find(epoch) == name for epoch, name in self.held.items())


TestSessions = Sessions.TestCase
