"""Fixtures for tests with real processes."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bare import BareWorker, expect
from container import Container
from fake_router import FakeRouter
from router_view import Worker

pytest_plugins = ["figures"]

Starter = Callable[..., Container]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: the path of a unix socket is limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="snp-") as name:
        yield Path(name)


@pytest.fixture
def start(folder: Path, request: pytest.FixtureRequest) -> Iterator[Starter]:
    """Start a supervisor for an adapter: `start("module:Class")`, or `start(source=…)` for a module of its own."""
    started: list[Container] = []

    def begin(adapter: str = "app:App", *arguments: str, source: str | None = None, drain: float = 8.0) -> Container:
        if source is not None:
            (folder / "app.py").write_text(textwrap.dedent(source))
        container = Container(folder, adapter, arguments, drain)
        started.append(container)
        container.start()
        return container

    yield begin
    for container in started:
        try:
            container.close()
        finally:
            print(container.output())


@pytest.fixture
def bare(folder: Path) -> Iterator[Callable[..., Bare]]:
    """Start a worker without a supervisor: `bare(source, slots=…)`."""
    started: list[Bare] = []

    def begin(
        source: str,
        adapter: str = "app:App",
        slots: int = 1,
        version: int = 2,
        env: dict[str, str] | None = None,
        **router: Any,
    ) -> Bare:
        (folder / "app.py").write_text(textwrap.dedent(source))
        begun = Bare(folder, adapter, slots, FakeRouter(str(folder / "bridge.sock"), version=version, **router), env)
        started.append(begun)
        return begun

    yield begin
    for begun in started:
        begun.close()
        print(begun.process.log.read_text())


class Bare:
    """A bare worker, its router, and what the router knows of it."""

    def __init__(
        self, folder: Path, adapter: str, slots: int, router: FakeRouter, env: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.router = router
        self.slots = slots
        expect(router)
        self.process = BareWorker(folder, router.path, adapter, slots, **env or {})

    @property
    def worker(self) -> Worker:
        """The connected worker."""
        return self.router.wait_worker(0)

    def notes(self) -> list[str]:
        """Return the lines that the adapter wrote to the file `notes`."""
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def close(self) -> None:
        """End both."""
        self.process.close()
        self.router.kill()
