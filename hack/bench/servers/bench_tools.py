"""The echo as a tool, for the generic API: `bench_tools:Tools`. Commits before servicers have this way only."""

from __future__ import annotations

from snakepit import Adapter, tool


class Tools(Adapter):
    """Answers with what it gets."""

    @tool
    def echo(self, payload: bytes) -> bytes:
        """Answer once."""
        return payload
