"""A CallWire without anything behind it: what a handler's runtime asks for is set before, what it does is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from snakepit.context import Session, Worker
from snakepit.worker.wire import CancelledCallError, Metadata


class FakeWire:
    """One call, in the thread of the test."""

    peer = "ipv4:10.0.0.7:51234"
    worker = Worker("pod-0", 3)
    request_id = "r-7"

    def __init__(self, *requests: bytes, metadata: Metadata = (), session: Session | None = None) -> None:
        self.requests = list(requests)
        self.metadata = metadata
        self.session = session
        self.deadline: float | None = None
        self.cancelled = False
        self.sent: list[bytes] = []
        self.headers: Metadata | None = None
        self.finished: tuple[int, str, Metadata, bytes | None] | None = None
        self.callbacks: list[Callable[[], None]] = []
        # Raised by the next send, once.
        self.refusal: Exception | None = None
        # How many messages there is credit for.
        self.credit = 1 << 30

    def cancel(self) -> None:
        self.cancelled = True
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def receive(self) -> bytes | None:
        if self.cancelled:
            raise CancelledCallError
        return self.requests.pop(0) if self.requests else None

    def send_headers(self, metadata: Metadata) -> None:
        assert self.headers is None
        assert not self.sent
        if self.cancelled:
            raise CancelledCallError
        self.headers = metadata

    def send(self, message: bytes) -> None:
        assert self.finished is None
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal
        if self.cancelled:
            raise CancelledCallError
        self.sent.append(message)

    def try_send(self, message: bytes) -> bool:
        if self.refusal is not None or len(self.sent) >= self.credit:
            return False
        self.send(message)
        return True

    def finish(
        self,
        code: int,
        message: str = "",
        trailers: Metadata = (),
        answer: bytes | None = None,
        headers: Metadata = (),
    ) -> None:
        assert self.finished is None
        self.finished = (code, message, trailers, answer)

    def on_cancel(self, callback: Callable[[], None]) -> bool:
        if self.cancelled:
            return False
        self.callbacks.append(callback)
        return True

    def loop(self) -> asyncio.AbstractEventLoop:
        raise AssertionError("nobody needs it")

    def run_coroutine(self, awaitable: Any) -> Any:
        async def run() -> Any:
            task = asyncio.ensure_future(awaitable)
            loop = asyncio.get_running_loop()
            if not self.on_cancel(lambda: loop.call_soon_threadsafe(task.cancel) and None):
                task.cancel()
            return await task

        return asyncio.run(run())
