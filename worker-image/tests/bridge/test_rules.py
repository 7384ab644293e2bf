"""The state machines: calls, credit, sessions, slots. Any order of events keeps their promises."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from snakepit.bridge import calls, protocol, sessions, supervision
from snakepit.bridge.supervision import Kill, Phase, Start, Supervision, Terminate

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


class Slots(RuleBasedStateMachine):
    """At most one life a slot; only what is wanted is started; with time, exactly what is wanted runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.rules = Supervision()
        self.rules.may_start = 2
        self.running: set[int] = set()
        self.draining = False

    def plan(self) -> None:
        for action in self.rules.plan(self.now):
            if isinstance(action, Start):
                assert action.slot not in self.running, "two lives in one slot"
                assert action.slot in self.rules.wanted and not self.draining
                self.running.add(action.slot)
            else:
                assert action.slot in self.running

    @rule(slots=st.sets(st.integers(0, 5)))
    def desire(self, slots: set[int]) -> None:
        self.rules.desire(slots, 5.0, 1.0)
        self.plan()

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.plan()

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        if self.running:
            self.rules.ready(data.draw(st.sampled_from(sorted(self.running))), self.now)
            self.plan()

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        if self.running:
            slot = data.draw(st.sampled_from(sorted(self.running)))
            self.rules.gone(slot, self.now)
            self.running.discard(slot)
            self.plan()

    @rule(slot=st.integers(0, 5))
    def kill(self, slot: int) -> None:
        first = self.rules.kill(slot, "CALL_TIMEOUT")
        assert bool(first) <= (slot in self.running)
        assert self.rules.kill(slot, "AGAIN") == []

    @rule()
    def drain(self) -> None:
        if not self.draining and self.now > 400:
            self.rules.drain(self.now, 20.0)
            self.draining = True

    @invariant()
    def starting_is_bounded(self) -> None:
        unready = [s for s in self.rules.slots.values() if s.life is not None and s.life.ready_at is None]
        assert len(unready) <= 2

    def teardown(self) -> None:
        for _ in range(60):
            self.plan()
            for slot in sorted(self.running):
                life = self.rules.slots[slot].life
                assert life is not None
                if life.phase in (Phase.STOPPING, Phase.KILLED):
                    self.rules.gone(slot, self.now)
                    self.running.discard(slot)
                else:
                    self.rules.ready(slot, self.now)
            self.now += 31.0
        if self.draining:
            assert not self.running and self.rules.empty()
        else:
            assert self.running == set(self.rules.wanted)


TestSlots = Slots.TestCase


def test_the_pauses_between_deaths() -> None:
    rules = Supervision()
    rules.may_start = 32
    rules.desire([0], 60.0, 1.0)
    now, pauses = 0.0, []
    for _ in range(9):
        while Start(0) not in rules.plan(now):
            wake = rules.next_wakeup()
            assert wake is not None and wake > now
            now = wake
        rules.ready(0, now)
        died = now = now + 0.5
        rules.gone(0, now)
        wake = rules.next_wakeup()
        assert wake is not None
        pauses.append(wake - died)
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert rules.slots[0].deaths == 9
    now += 30
    assert rules.plan(now) == [Start(0)]
    rules.ready(0, now)
    rules.gone(0, now + supervision.STEADY_SECONDS)
    assert rules.plan(now + supervision.STEADY_SECONDS) == [Start(0)], "a steady slot begins a new series"


def test_a_stop_is_terminate_then_kill_and_no_death() -> None:
    rules = Supervision()
    rules.may_start = 32
    rules.desire([3], 60.0, 2.0)
    assert rules.plan(0.0) == [Start(3)]
    rules.desire([], 60.0, 2.0)
    assert rules.plan(1.0) == [Terminate(3)]
    assert rules.plan(2.9) == []
    assert rules.next_wakeup() == 3.0
    assert rules.plan(3.0) == [Kill(3, "STOPPED")]
    assert rules.gone(3, 3.1).cause == "STOPPED"
    assert rules.slots[3].deaths == 0 and rules.empty()


def test_startup_timeout_and_the_drain_margin() -> None:
    rules = Supervision()
    rules.may_start = 1
    rules.desire([0, 1], 5.0, 60.0)
    assert rules.plan(0.0) == [Start(0)], "one at a time while forking is in doubt"
    assert rules.plan(5.0) == [Kill(0, "STARTUP_TIMEOUT")], "and no other before its end is known"
    rules.gone(0, 5.1)
    assert rules.plan(5.1) == [Start(0)]
    rules.ready(0, 5.2)
    rules.drain(10.0, 100.0)
    assert rules.plan(99.9) == []
    assert rules.plan(100.0) == [Terminate(0)], "10 s before the deadline"
    assert rules.plan(109.0) == [Kill(0, "STOPPED")], "a second before it"
