"""Adapters that never get a worker ready."""

import time

from snakepit import tool


class Hanging:
    """Its setup waits for something that never comes."""

    def setup(self, ctx: object) -> None:
        """Hang."""
        time.sleep(3600)

    @tool
    def never(self) -> None:
        """Is never called."""


class Greedy:
    """Its setup takes more memory than the container may have."""

    def setup(self, ctx: object) -> None:
        """Write to memory until somebody ends this."""
        self.kept = [bytearray(b"x" * (16 << 20)) for _ in range(64)]

    @tool
    def never(self) -> None:
        """Is never called."""
