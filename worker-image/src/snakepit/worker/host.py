"""What the calls of one worker share, and what they want of its profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from snakepit.context import Worker
from snakepit.worker.loops import Loop

if TYPE_CHECKING:
    from snakepit.worker.call import Call


class Feed(Protocol):
    """Where the rest of a call's request comes from."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards the requests of calls that get pieces."""

    def more(self, call: Call) -> None:
        """Wait until the call's request has something new, or the call is cancelled.

        Raises ConnectionLostError and ProtocolError.
        """

    def leave(self, call: Call) -> None:
        """See to it that no thread of an ended call waits in `more`."""


class Host:
    """What the calls of one worker share."""

    def __init__(self, worker: Worker, loop: Loop, feed: Feed, interrupts: Interrupts | None = None) -> None:
        self.worker = worker
        self.loop = loop
        self.feed = feed
        # None where no handler may be interrupted.
        self.interrupts = interrupts


class Interrupts(Protocol):
    """Runs functions that a cancel interrupts."""

    def run(self, call: Call, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call the function with these named arguments; Interrupted is raised within it when the call is cancelled."""
