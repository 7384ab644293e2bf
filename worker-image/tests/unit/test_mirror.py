"""What a router that starts again is told, without processes."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit.bridge import messages
from snakepit.bridge.protocol import MAX_LENGTH, StartMethod
from snakepit.supervisor import mirror
from snakepit.supervisor.workers import WorkerProcess
from snakepit.worker.report import Job


def worker(slot: int, *names: str, epoch: int = 1) -> WorkerProcess:
    """Return a worker that holds these sessions, with epochs that count up."""
    job = Job("app:App", [], "/b", "uid", "pod", slot, 1000 + slot, "00" * 16, True)
    made = WorkerProcess(job, StartMethod.FORK)
    made.sessions = {epoch + i: name for i, name in enumerate(names)}
    return made


def life(name: str, epoch: int, cause: str = "DRAINED") -> Any:
    """Return what a router says of a lost life of slot 3."""
    where = {"slot": 3, "nonce": 9}
    return messages.ToSupervisor(
        lost={"lives": [{"session": {"name": name, "epoch": epoch}, "incarnation": where, "cause": cause}]}
    ).lost.lives[0]


def told(losses: mirror.Losses, now: float = 0.0) -> list[tuple[str, int, str, bool]]:
    """Return what the mirror says of losses."""
    lost = [x for part in mirror.parts([], losses, now) for x in part.lost]
    return [(x.session.name, x.session.epoch, x.cause, x.begun_again) for x in lost]


def test_everything_is_told_once_in_frames_that_fit() -> None:
    names = [f"{i:0>128}" for i in range(3000)]
    workers = [worker(slot, *names[slot * 1000 : slot * 1000 + 1000], epoch=slot * 1000) for slot in range(3)]
    losses = mirror.Losses()
    for i in range(3000):
        losses.told(life(f"lost-{i:0>120}", 10_000 + i, "C" * 64), float(i))
    parts = list(mirror.parts(workers, losses, 5000.0, restarts={7: 2}))
    assert len(parts) > 3
    assert all(part.ByteSize() <= mirror.PART_BYTES + 40_000 < MAX_LENGTH for part in parts)
    assert [part.continued for part in parts] == [True] * (len(parts) - 1) + [False]
    assert [w.incarnation.nonce for w in parts[0].workers] == [1000, 1001, 1002]
    assert all(w.proof for w in parts[0].workers) and dict(parts[0].restarts) == {7: 2}
    held = [(w.incarnation.slot, s.epoch, s.name) for part in parts for w in part.workers for s in w.sessions]
    assert held == [(i // 1000, i, name) for i, name in enumerate(names)]
    lost = [x for part in parts for x in part.lost]
    assert [x.session.epoch for x in lost] == list(range(10_000, 13_000))
    assert (lost[0].age_ms, lost[0].incarnation.slot, lost[0].incarnation.nonce) == (5_000_000, 3, 9)


def test_256_workers_leave_room_in_the_hello() -> None:
    [part] = mirror.parts([worker(slot) for slot in range(256)], mirror.Losses(), 0.0)
    assert part.ByteSize() + mirror.PART_BYTES < MAX_LENGTH - 20_000


def test_what_ends_between_two_parts_is_left_out() -> None:
    full = worker(0, *[f"{i:0>128}" for i in range(1500)])
    parts = mirror.parts([full], mirror.Losses(), 0.0)
    first = next(parts)
    said = len(first.workers[0].sessions)
    del full.sessions[1500]
    [rest] = parts
    assert said + sum(len(w.sessions) for w in rest.workers) == 1499


def test_a_name_that_lives_again_is_marked_and_the_routers_cause_counts() -> None:
    losses = mirror.Losses()
    dead = worker(0, "a", "b", epoch=5)
    losses.ended(dead, "KILLED", 1.0)
    assert not dead.sessions
    losses.told(life("b", 6, "STUCK"), 2.0)
    losses.began("a")
    losses.began("never heard of")
    assert told(losses) == [("a", 5, "KILLED", True), ("b", 6, "STUCK", False)]
    # A later loss of the name is told in its place.
    losses.told(life("b", 8), 3.0)
    assert told(losses) == [("a", 5, "KILLED", True), ("b", 6, "STUCK", True), ("b", 8, "DRAINED", False)]


def test_losses_are_bounded_in_number_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MAX_LOSSES", 3)
    losses = mirror.Losses()
    for i in range(5):
        losses.told(life(f"s{i}", i), float(i))
    assert [name for name, *_ in told(losses)] == ["s2", "s3", "s4"]
    losses.told(life("s5", 5), 86_402.5)
    assert [name for name, *_ in told(losses)] == ["s3", "s4", "s5"]
    losses.told(life("s6", 6), 200_000.0)
    assert [name for name, *_ in told(losses)] == ["s6"]


def test_a_loss_after_the_hello_began_has_no_age() -> None:
    losses = mirror.Losses()
    losses.told(life("s", 1), 9.0)
    [part] = mirror.parts([], losses, 8.0)
    assert part.lost[0].age_ms == 0
