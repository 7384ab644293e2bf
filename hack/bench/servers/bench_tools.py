"""The echo as a tool, for the generic API: `bench_tools:Tools`. Commits before servicers have this way only."""

from __future__ import annotations

import os

from snakepit import Adapter, tool


class Tools(Adapter):
    """Answers with what it gets."""

    @tool
    def echo(self, payload: bytes) -> bytes:
        """Answer once."""
        return payload

    @tool
    def pid(self) -> int:
        """Say which process serves."""
        return os.getpid()
