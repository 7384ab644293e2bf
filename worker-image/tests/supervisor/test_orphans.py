"""A router that is gone for good: workers outside a pod end themselves, those in a pod wait without limit."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import pytest

from container import Container, alive
from router_view import eventually

LIMIT = 1.0
APP = """
    import os, subprocess
    from snakepit import tool

    class App:
        @tool
        def start(self) -> list[int]:
            daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            return [os.getpid(), daemon.pid]
"""


@pytest.mark.parametrize("limited", [True, False])
def test_without_a_router_workers_end_only_where_a_limit_is_set(folder: Path, limited: bool) -> None:
    (folder / "app.py").write_text(textwrap.dedent(APP))
    container = Container(folder, "app:App", (), 4.0)
    if limited:
        container.env["SNAKEPIT_ORPHAN_TIMEOUT"] = str(LIMIT)
    container.start()
    try:
        container.router.desire(0)
        started = container.router.call(container.router.wait_worker(0), "start").result
        container.router.kill()
        began = time.monotonic()
        if limited:
            assert container.process is not None
            assert container.process.wait(15) == 0
            assert time.monotonic() - began >= LIMIT
            eventually(lambda: not [pid for pid in started if alive(pid)], "every process has ended", 2)
            assert "no router came back" in container.output()
        else:
            eventually(lambda: time.monotonic() - began > 3 * LIMIT, "the limit of the other case has long passed", 10)
            assert all(alive(pid) for pid in [*started, container.pid])
    finally:
        container.close()


def test_a_router_that_comes_back_in_time_finds_its_workers(folder: Path) -> None:
    (folder / "app.py").write_text(textwrap.dedent(APP))
    container = Container(folder, "app:App", (), 4.0)
    container.env["SNAKEPIT_ORPHAN_TIMEOUT"] = str(2 * LIMIT)
    container.start()
    try:
        container.router.desire(0)
        worker = container.router.wait_worker(0)
        for _ in range(2):
            container.router.kill()
            router = container.restart_router()
            assert router.wait_worker(0).pid == worker.pid
            # Each absence counts for itself.
            over = time.monotonic() + 1.5 * LIMIT
            eventually(lambda over=over: time.monotonic() > over, "more than one limit in all has passed", 10)
        assert alive(container.pid)
    finally:
        container.close()
