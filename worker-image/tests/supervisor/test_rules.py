"""The rules of the supervisor: which slots are started and ended, and when."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from snakepit.bridge import supervision
from snakepit.bridge.supervision import Kill, Phase, Start, Supervision, Terminate, Wish

OWN_BOUND = 4


def wish(*slots: int, **more: float) -> Wish:
    return Wish(slots=frozenset(slots), **more)  # type: ignore[arg-type]


class Slots(RuleBasedStateMachine):
    """At most one life a slot; only what is wanted is started, by batches; with time, exactly what is wanted runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.rules = Supervision()
        self.rules.may_start = OWN_BOUND
        self.wish = Wish()
        self.running: set[int] = set()
        self.draining = False
        # Starts since the batch began, and when nothing was starting for the first time after it.
        self.batch = 0
        self.quiet_since = 0.0

    def starting(self) -> int:
        lives = [slot.life for slot in self.rules.slots.values()]
        return sum(1 for life in lives if life is not None and life.ready_at is None)

    def plan(self) -> None:
        quiet = self.starting() == 0
        if quiet and self.now >= self.quiet_since + self.wish.batch_interval:
            self.batch = 0
        for action in self.rules.plan(self.now):
            if isinstance(action, Start):
                assert action.slot not in self.running, "two lives in one slot"
                assert action.slot in self.rules.wanted and not self.draining
                assert self.now >= self.rules.slots[action.slot].not_before, "started within its pause"
                self.running.add(action.slot)
                self.batch += 1
            else:
                assert action.slot in self.running
        if self.wish.batch and self.wish.batch_interval:
            assert self.batch <= self.wish.batch, "a batch that took more than its size"
        wake = self.rules.next_wakeup(self.now)
        assert wake is None or wake > self.now, "a wake-up that is due already would keep the loop spinning"

    def settle(self, was: int) -> None:
        if was and self.starting() == 0:
            self.quiet_since = self.now
        self.plan()

    @rule(
        slots=st.sets(st.integers(0, 9)),
        batch=st.integers(0, 6),
        interval=st.sampled_from([0.0, 0.5, 3.0]),
        backoff=st.sampled_from([0.001, 1.0, 20.0]),
    )
    def desire(self, slots: set[int], batch: int, interval: float, backoff: float) -> None:
        changed = (batch, interval) != (self.wish.batch, self.wish.batch_interval)
        self.wish = Wish(frozenset(slots), 5.0, 1.0, batch, interval, backoff, 30.0)
        self.rules.desire(self.wish)
        if changed:
            # A new size or pause holds from the next batch on.
            self.batch = -100 if self.starting() or self.now < self.quiet_since + interval else 0
        self.plan()

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.plan()

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        if self.running:
            was = self.starting()
            self.rules.ready(data.draw(st.sampled_from(sorted(self.running))), self.now)
            self.settle(was)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        if self.running:
            was = self.starting()
            slot = data.draw(st.sampled_from(sorted(self.running)))
            self.rules.gone(slot, self.now)
            self.running.discard(slot)
            self.settle(was)

    @rule(slot=st.integers(0, 9))
    def kill(self, slot: int) -> None:
        first = self.rules.kill(slot, "CALL_TIMEOUT")
        assert bool(first) <= (slot in self.running)
        assert self.rules.kill(slot, "AGAIN") == []

    @rule(bound=st.sampled_from([None, 1, OWN_BOUND]))
    def may_start(self, bound: int | None) -> None:
        self.rules.may_start = bound
        self.plan()

    @rule()
    def drain(self) -> None:
        if not self.draining and self.now > 400:
            self.rules.drain(self.now, 20.0)
            self.draining = True

    @invariant()
    def starting_is_bounded(self) -> None:
        assert self.starting() <= max(OWN_BOUND, 1)

    def teardown(self) -> None:
        self.rules.may_start = OWN_BOUND
        for _ in range(120):
            self.plan()
            was = self.starting()
            for slot in sorted(self.running):
                life = self.rules.slots[slot].life
                assert life is not None
                if life.phase in (Phase.STOPPING, Phase.KILLED):
                    self.rules.gone(slot, self.now)
                    self.running.discard(slot)
                else:
                    self.rules.ready(slot, self.now)
            if was and self.starting() == 0:
                self.quiet_since = self.now
            # As the supervisor does: wait for nothing but what the rules name.
            wake = self.rules.next_wakeup(self.now)
            self.now = max(self.now, wake) if wake is not None else self.now + 31.0
        if self.draining:
            assert not self.running and self.rules.empty()
        else:
            assert self.running == set(self.rules.wanted)


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def started(rules: Supervision, now: float) -> list[int]:
    return [action.slot for action in rules.plan(now) if isinstance(action, Start)]


def test_batches_and_the_pause_between_them() -> None:
    rules = Supervision()
    rules.may_start = 32
    rules.desire(wish(*range(7), batch=3, batch_interval=0.5))
    assert started(rules, 0.0) == [0, 1, 2]
    assert started(rules, 5.0) == [], "nothing more while the batch starts"
    assert rules.next_wakeup(5.0) == 60.0, "only their time limit is waited for"
    for slot in (0, 1):
        rules.ready(slot, 5.0)
    assert started(rules, 5.9) == []
    rules.gone(2, 6.0)
    assert started(rules, 6.2) == []
    assert rules.next_wakeup(6.2) == 6.5
    assert started(rules, 6.5) == [2, 3, 4], "the slot whose worker died is in the next batch"
    for slot in (2, 3, 4):
        rules.ready(slot, 7.0)
    assert started(rules, 7.5) == [5, 6]
    for slot in (5, 6):
        rules.ready(slot, 8.0)
    rules.gone(0, 8.0)
    assert started(rules, 8.0) == [0], "a batch that is not full takes a replacement at once"
    rules.ready(0, 8.1)
    rules.gone(1, 8.2)
    assert started(rules, 8.2) == []
    assert started(rules, 8.6) == [1]
    rules.ready(1, 8.7)
    rules.gone(3, 100.0)
    assert started(rules, 100.0) == [3], "long after a batch nothing is waited for"


def test_a_batch_is_bounded_by_the_probe() -> None:
    rules = Supervision()
    rules.may_start = 1
    rules.desire(wish(*range(7), batch=3, batch_interval=0.5))
    assert started(rules, 0.0) == [0]
    rules.may_start = 32
    rules.ready(0, 1.0)
    assert started(rules, 1.0) == [1, 2], "the probe was the first of its batch"


def test_the_back_off_that_the_router_asks_for() -> None:
    rules = Supervision()
    rules.may_start = 32
    rules.desire(wish(0, backoff=0.25, longest_backoff=0.6))
    now, pauses = 0.0, []
    for _ in range(5):
        assert started(rules, now) == [0]
        rules.gone(0, now)
        wake = rules.next_wakeup(now)
        pauses.append(0.0 if wake is None else wake - now)
        now += pauses[-1]
    assert pauses == pytest.approx([0.0, 0.25, 0.5, 0.6, 0.6])


def test_the_pauses_between_deaths() -> None:
    rules = Supervision()
    rules.may_start = 32
    rules.desire(wish(0))
    now, pauses = 0.0, []
    for _ in range(9):
        while Start(0) not in rules.plan(now):
            wake = rules.next_wakeup(now)
            assert wake is not None and wake > now
            now = wake
        rules.ready(0, now)
        died = now = now + 0.5
        rules.gone(0, now)
        wake = rules.next_wakeup(now)
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
    rules.desire(wish(3, grace=2.0))
    assert rules.plan(0.0) == [Start(3)]
    rules.desire(wish(grace=2.0))
    assert rules.plan(1.0) == [Terminate(3)]
    assert rules.plan(2.9) == []
    assert rules.next_wakeup(2.9) == 3.0
    assert rules.plan(3.0) == [Kill(3, "STOPPED")]
    assert rules.gone(3, 3.1).cause == "STOPPED"
    assert rules.slots[3].deaths == 0 and rules.empty()


def test_startup_timeout_and_the_drain_margin() -> None:
    rules = Supervision()
    rules.may_start = 1
    rules.desire(wish(0, 1, startup=5.0, grace=60.0))
    assert rules.plan(0.0) == [Start(0)], "one at a time while forking is in doubt"
    assert rules.plan(5.0) == [Kill(0, "STARTUP_TIMEOUT")], "and no other before its end is known"
    rules.gone(0, 5.1)
    assert rules.plan(5.1) == [Start(0)]
    rules.ready(0, 5.2)
    rules.drain(10.0, 100.0)
    assert rules.plan(99.9) == []
    assert rules.plan(100.0) == [Terminate(0)], "10 s before the deadline"
    assert rules.plan(109.0) == [Kill(0, "STOPPED")], "a second before it"
