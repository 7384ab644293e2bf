"""Fixtures for tests with real processes."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from container import Container

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
