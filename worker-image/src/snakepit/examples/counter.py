"""An adapter that counts: one tool of every kind. `snakepit.examples.counter:Counter`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from snakepit import Adapter, Context, tool
from snakepit.errors import FailedPrecondition


class Counter(Adapter):
    """Adds, counts within a session, counts down, sleeps and fails."""

    def session_start(self, ctx: Context) -> None:
        """Begin at 0."""
        assert ctx.session is not None
        ctx.session.state.count = 0

    @tool(idempotent=True)
    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @tool
    def count(self, ctx: Context) -> int:
        """Count the calls of this session: 1, 2, 3."""
        if ctx.session is None:
            raise FailedPrecondition("count needs a session; send the metadata snakepit-session")
        state = ctx.session.state
        state.count += 1
        counted: int = state.count
        return counted

    @tool
    def countdown(self, start: int) -> Iterator[int]:
        """Yield start, start - 1, … 1."""
        yield from range(start, 0, -1)

    @tool(idempotent=True)
    def whoami(self, ctx: Context) -> dict[str, object]:
        """Say which process answers."""
        return {"pid": os.getpid(), "slot": ctx.worker.slot, "worker": ctx.worker.name}

    @tool
    def sleep(self, seconds: float, ctx: Context) -> float:
        """Sleep, and return the seconds slept; ends early when the caller gives up."""
        begin = time.monotonic()
        while (left := begin + seconds - time.monotonic()) > 0 and not ctx.cancelled:
            time.sleep(min(left, 0.05))
        return time.monotonic() - begin

    @tool
    def fail(self, message: str) -> None:
        """Raise ValueError with the message."""
        raise ValueError(message)

    @tool(idempotent=True)
    async def echo(self, payload: bytes) -> bytes:
        """Return the payload."""
        return payload
