"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client.fake_router import Router
from snakepit import Client


@pytest.fixture
def router() -> Iterator[Router]:
    """Return a running router with one tool, `add`."""
    router = Router()
    router.tools["add"] = lambda run: run.seen.arguments["a"] + run.seen.arguments["b"]
    router.start()
    yield router
    router.stop()


@pytest.fixture
def client(router: Router) -> Iterator[Client]:
    """Return a client of the router."""
    with Client(router.address, timeout=10) as client:
        yield client
