"""Limits and use of memory and CPU, read from files that stand for a cgroup; the guard's choice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakepit.supervisor.resources import cgroup, guard, usage

MIB = 1 << 20
Make = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Make:
    """Write the files of a cgroup: `folder("pod/c1", memory_max="max")` writes memory.max."""

    def write(name: str, **files: str | int) -> Path:
        place = tmp_path / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup.procs").touch()
        for file, text in files.items():
            (place / file.replace("_", ".", 1)).write_text(f"{text}\n")
        return place

    return write


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu_max": "150000 100000"}, 1.5),
        ({"cpu_max": "max 100000"}, None),
        ({"cpu_cfs_quota_us": 50_000, "cpu_cfs_period_us": 100_000}, 0.5),
        ({"cpu_cfs_quota_us": -1, "cpu_cfs_period_us": 100_000}, None),
        ({"cpu_max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_cpu_limits(folder: Make, files: dict[str, str | int], limit: float | None) -> None:
    assert cgroup.cpu_limit(folder("c", **files)) == limit


def test_the_tightest_cpu_limit_above_counts(folder: Make) -> None:
    folder("pod", cpu_max="200000 100000")
    assert cgroup.cpu_limit(folder("pod/c", cpu_max="800000 100000")) == 2.0
    assert cgroup.cpu_limit(None) is None


def test_memory_of_version_two(folder: Make) -> None:
    place = folder("c", memory_max=100 * MIB, memory_current=90 * MIB)
    (place / "memory.stat").write_text(f"anon 1\ninactive_file {30 * MIB}\nactive_file 7\n")
    (place / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    memory = cgroup.Memory.find(place)
    assert memory is not None and (memory.limit, memory.unified) == (100 * MIB, True)
    assert memory.used() == 60 * MIB
    assert memory.used(above=95 * MIB) == 90 * MIB, "below the bound the details need no look"
    assert memory.kills() == 2


def test_memory_of_version_one(folder: Make) -> None:
    limits = {"memory_limit_in_bytes": 100 * MIB, "memory_usage_in_bytes": 99 * MIB}
    place = folder("c", **limits)
    (place / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {9 * MIB}\n")
    (place / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    memory = cgroup.Memory.find(place)
    assert memory is not None and (memory.limit, memory.used(), memory.kills()) == (100 * MIB, 90 * MIB, 4)


def test_a_limit_above_is_found_and_no_limit_is_none(folder: Make) -> None:
    folder("pod", memory_max=50 * MIB, memory_current=MIB)
    memory = cgroup.Memory.find(folder("pod/c", memory_max="max", memory_current=MIB))
    assert memory is not None and memory.limit == 50 * MIB and memory.folder.name == "pod"
    free = cgroup.Memory.find(folder("v1", memory_limit_in_bytes=9223372036854771712, memory_usage_in_bytes=1))
    assert free is not None and free.limit is None
    assert cgroup.Memory.find(folder("nothing")) is None
    assert cgroup.Memory.find(None) is None


@pytest.mark.parametrize(
    ("lines", "folders", "expected"),
    [
        ("0::/\n", ["."], "."),
        ("0::/pod/c\n", [".", "pod/c"], "pod/c"),
        ("0::/kubepods/elsewhere\n", ["."], "."),
        ("0::/../../other\n", ["."], "."),
        ("4:memory:/pod/c\n0::/\n", [".", "memory/pod/c"], "memory/pod/c"),
        ("4:memory:/host/path\n0::/\n", [".", "memory"], "memory"),
        ("4:cpu,cpuacct:/\n0::/x\n", ["."], "x"),
        ("nonsense\n", ["."], None),
    ],
)
def test_the_own_cgroup(tmp_path: Path, lines: str, folders: list[str], expected: str | None) -> None:
    mount = tmp_path / "mount"
    for name in [*folders, "x"]:
        (mount / name).mkdir(parents=True, exist_ok=True)
    (mount / "cgroup.controllers").touch()
    (tmp_path / "self").write_text(lines)
    found = cgroup.own("memory", tmp_path / "self", mount)
    assert found == (None if expected is None else mount / expected)
    assert cgroup.own("memory", tmp_path / "absent", mount) is None


def worker(slot: int, keeper: int = 1, pid: int = 1) -> Any:
    job = SimpleNamespace(slot=slot, nonce=1000 + slot)
    return SimpleNamespace(job=job, keeper_pid=keeper, worker_pid=pid, status=None)


def guarded(place: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[int, int]) -> guard.MemoryGuard:
    monkeypatch.setattr(guard, "sizes", lambda workers: {w.job.slot: sizes[w.job.slot] for w in workers})
    return guard.MemoryGuard(cgroup.Memory.find(place))


def test_the_guard_kills_the_largest_and_waits_until_it_is_gone(folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder("c", memory_max=100 * MIB, memory_current=95 * MIB)
    (place / "memory.stat").write_text("inactive_file 0\n")
    sizes = {0: 10, 1: 30, 2: 20}
    watching = guarded(place, monkeypatch, sizes)
    workers = {slot: worker(slot) for slot in sizes}
    assert watching.tick(workers, 1.0) is None, "at the bound, not above it"
    folder("c", memory_current=95 * MIB + 1)
    assert watching.tick(workers, 1.1) is None, "not looked at again so soon"
    assert watching.next_wakeup() == pytest.approx(1.2)
    assert watching.tick(workers, 1.2) == 1
    assert watching.tick(workers, 1.5) is None, "the killed one is not gone yet"
    workers[1] = worker(1)
    workers[1].job.nonce = 7
    sizes[1] = 1
    assert watching.tick(workers, 1.8) == 2, "its replacement is another"
    (place / "memory.stat").write_text(f"inactive_file {20 * MIB}\n")
    del workers[2]
    assert watching.tick(workers, 2.1) is None, "file pages that can be dropped do not count"
    assert watching.tick({}, 2.4) is None


def test_the_guard_waits_for_a_worker_that_ends_already(folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder("c", memory_max=100 * MIB, memory_current=99 * MIB)
    sizes = {0: 10, 1: 0}
    watching = guarded(place, monkeypatch, sizes)
    workers = {slot: worker(slot) for slot in sizes}
    looks = [watching.tick(workers, float(now)) for now in range(7)]
    assert looks == [None] * 5 + [0, None], "but not for ever"
    assert watching.tick({}, 8.0) is None


def test_without_a_limit_nothing_is_guarded(folder: Make) -> None:
    for place in (folder("c", memory_max="max", memory_current=1 << 50), folder("nothing")):
        watching = guard.MemoryGuard(cgroup.Memory.find(place))
        assert watching.next_wakeup() is None and watching.tick({0: worker(0)}, 1.0) is None
    assert guard.MemoryGuard(None).explains(0.0) is False


def test_each_kill_of_the_kernel_explains_one_death(folder: Make) -> None:
    place = folder("c", memory_max="max", memory_current=MIB)
    (place / "memory.events").write_text("oom_kill 5\n")
    watching = guard.MemoryGuard(cgroup.Memory.find(place))
    assert not watching.explains(1.0), "those before our start"
    (place / "memory.events").write_text("oom_kill 7\n")
    assert [watching.explains(2.0) for _ in range(3)] == [True, True, False]
    (place / "memory.events").write_text("oom_kill 8\n")
    watching.tick({}, 3.0)
    assert not guard.MemoryGuard(cgroup.Memory.find(place)).explains(3.0)
    assert watching.explains(3.1)


def test_an_old_kill_explains_nothing(folder: Make) -> None:
    place = folder("c", memory_max=100 * MIB, memory_current=MIB)
    (place / "memory.events").write_text("oom_kill 0\n")
    watching = guard.MemoryGuard(cgroup.Memory.find(place))
    (place / "memory.events").write_text("oom_kill 1\n")
    watching.tick({}, 10.0)
    assert not watching.explains(16.0), "some other process was killed, and a death long after is another matter"


def test_processes_and_their_private_memory() -> None:
    code = "import os, sys, time; held = os.urandom(1 << 20) * 20; print(1, flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    child = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        look = usage.Processes()
        below = look.below(os.getpid())
        assert child.pid in below and len(look.below(child.pid)) == 1
        assert usage.private_bytes(look.below(child.pid)) >= 20 * MIB
        assert usage.private_bytes([1 << 30]) == 0, "a process that has ended"
        assert look.cpu_us(child.pid) > 0
    finally:
        child.kill()
        child.communicate()
        subprocess.run(["true"], check=True)
