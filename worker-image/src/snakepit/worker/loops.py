"""The worker's one event loop: in the handler's own thread (Process profile), or in a thread of its own (Thread)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

OnCancel = Callable[[Callable[[], None]], bool]


class Loop(Protocol):
    """Runs awaitables for threads that wait for them."""

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the loop, started on first use."""

    def run(self, awaitable: Awaitable[Any], on_cancel: OnCancel | None = None) -> Any:
        """Run an awaitable to its end and return its result. With `on_cancel` (see CallWire), a cancel reaches it."""

    def close(self) -> None:
        """End the loop."""


async def _await(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Keep what would end the loop, and with it every other call, from leaving the task."""
    try:
        return await awaitable, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


def _result(ended: tuple[Any, BaseException | None]) -> Any:
    result, error = ended
    if error is not None:
        raise error
    return result


class OwnLoop:
    """A loop that runs while a handler waits for it, in that handler's thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    def run(self, awaitable: Awaitable[Any], on_cancel: OnCancel | None = None) -> Any:
        """Run an awaitable to its end."""
        loop = self.get()
        task = loop.create_task(_await(awaitable))
        if on_cancel is not None and not on_cancel(_canceller(loop, task)):
            task.cancel()
        return _result(loop.run_until_complete(task))

    def close(self) -> None:
        """End the loop."""
        if self._loop is not None:
            self._loop.close()


class LoopThread:
    """A loop that always runs, in a daemon thread; any number of threads wait for what it runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="snakepit-loop", daemon=True).start()
            return self._loop

    def run(self, awaitable: Awaitable[Any], on_cancel: OnCancel | None = None) -> Any:
        """Run an awaitable to its end; not to be called in the loop's own thread."""
        loop = self.get()
        ended = threading.Event()
        tasks: list[asyncio.Task[tuple[Any, BaseException | None]]] = []

        def start() -> None:
            task = loop.create_task(_await(awaitable))
            tasks.append(task)
            task.add_done_callback(lambda _: ended.set())
            if on_cancel is not None and not on_cancel(_canceller(loop, task)):
                task.cancel()

        loop.call_soon_threadsafe(start)
        ended.wait()
        # The task has ended: a cancelled one too has run its clean-up.
        return _result(tasks[0].result())

    def close(self) -> None:
        """End the loop; its thread ends with it."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)


def _canceller(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Callable[[], None]:
    def cancel() -> None:
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:
            # The loop was closed: the task has ended.
            pass

    return cancel
