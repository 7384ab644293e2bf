"""The echo as tools of an adapter, for the generic API: `bench_tools:Tools`. Commits before servicers have this way only."""

from __future__ import annotations

from collections.abc import Iterator

from snakepit import Adapter, tool

CHUNKS = 10


class Tools(Adapter):
    """Answers with what it gets."""

    @tool
    def echo(self, payload: bytes) -> bytes:
        """Answer once."""
        return payload

    @tool
    def chunks(self, payload: bytes) -> Iterator[bytes]:
        """Answer ten times."""
        for _ in range(CHUNKS):
            yield payload
