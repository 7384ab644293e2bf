"""The state machines: calls, credit, sessions, slots. Any order of events keeps their promises."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from snakepit.bridge import calls, protocol, sessions

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
    """Every call ends exactly once: refused because a Cancel came first, or begun and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.table = calls.CallTable()
        self.last = 0
        self.cancelled: set[int] = set()
        self.terminal: dict[int, str] = {}

    @precondition(lambda self: not self.table.running)
    @rule(skip=st.integers(1, 3))
    def call(self, skip: int) -> None:
        self.last += skip
        if self.table.begin(self.last):
            assert self.last not in self.cancelled
        else:
            assert self.last in self.cancelled
            self.terminal[self.last] = "refused"

    @rule(ahead=st.integers(-3, 5))
    def cancel(self, ahead: int) -> None:
        id = max(1, self.last + ahead)
        running = self.table.running
        assert self.table.cancel(id, 1) == (id == running)
        if id > self.last:
            self.cancelled.add(id)

    @precondition(lambda self: self.table.running)
    @rule()
    def end(self) -> None:
        id = self.table.running
        assert id not in self.terminal
        self.table.end(id)
        self.terminal[id] = "ended"
        with pytest.raises(protocol.ProtocolError):
            self.table.end(id)

    @rule()
    def reuse(self) -> None:
        if self.last:
            with pytest.raises(protocol.ProtocolError):
                self.table.begin(self.last)


TestCalls = Calls.TestCase


def test_remembered_cancels_are_bounded() -> None:
    table = calls.CallTable()
    for id in range(1, 3000):
        table.cancel(id, 1)
    assert table.begin(1), "the oldest are forgotten"
    table.end(1)
    assert not table.begin(2999)


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


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=20), st.integers(1, 200))
def test_a_request_is_put_together_and_credit_never_exceeds_it(pieces: list[bytes], window: int) -> None:
    request = calls.Request(window, 1 << 30)
    returned = 0
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        returned += request.add(protocol.FLAGS_WHOLE if last else protocol.FLAG_MESSAGE, piece)
        assert request.complete == last
    assert request.message() == b"".join(pieces)
    assert returned <= request.size
    with pytest.raises(protocol.ProtocolError):
        request.add(protocol.FLAG_MESSAGE, b"more")


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
