"""What the worker and the code that answers a call say to each other: one accepted call, and a gRPC method."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from snakepit.context import Session, Worker

# Order and repeats are kept; the values of keys that end in -bin are bytes.
Metadata = Sequence[tuple[str, str | bytes]]


class CancelledCallError(Exception):
    """The call was cancelled, and nobody waits for more of its answer."""


class CallWire(Protocol):
    """One accepted call as a handler's runtime sees it.

    Methods may block; one handler thread at a time uses them, cancel callbacks come from another.
    """

    request_id: str
    # The caller's address as gRPC names it, such as ipv4:10.0.0.7:51234; empty when it is not known.
    peer: str
    metadata: Metadata
    session: Session | None
    worker: Worker
    # In terms of time.monotonic().
    deadline: float | None

    def receive(self) -> bytes | None:
        """Return the next whole message of the request, None at its end; raise CancelledCallError."""

    def try_receive(self) -> tuple[bool, bytes | None]:
        """As `receive`, without waiting: (False, None) when the next message has not come yet."""

    def send_headers(self, metadata: Metadata) -> None:
        """Send initial metadata; at most once, before the first message."""

    def send(self, message: bytes) -> None:
        """Send one whole message of the answer, as credit allows; raise CancelledCallError."""

    def try_send(self, message: bytes) -> bool:
        """As `send`, without waiting: False, and nothing is sent, when there is no credit for all of it now."""

    def finish(
        self,
        code: int,
        message: str = "",
        trailers: Metadata = (),
        answer: bytes | None = None,
        headers: Metadata = (),
    ) -> None:
        """End the call, exactly once. `answer` is its last message, `headers` are sent if none were."""

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave the call up, its deadline passed, or its link broke."""

    def on_cancel(self, callback: Callable[[], None]) -> bool:
        """Call back on a cancel, in the control thread, so that it must not block. False: cancelled already."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the worker's one loop, started on first use."""

    def run_coroutine(self, awaitable: Awaitable[Any]) -> Any:
        """Run an awaitable on the loop, cancelled when the call is cancelled; return its result."""


class Method(Protocol):
    """One gRPC method that an adapter serves."""

    # "/package.Service/Method".
    path: str
    client_streaming: bool
    server_streaming: bool
    idempotent: bool

    def run(self, wire: CallWire) -> None:
        """Serve one call. Every path ends in wire.finish, or in an exception, which becomes the call's failure."""
