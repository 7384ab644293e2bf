"""Handlers that are coroutines or asynchronous generators: served on the worker's loop, as `grpc.aio.server` does."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from collections.abc import Coroutine as Coroutine_
from typing import Any

from grpc import aio

from snakepit.servicer.blocking import Behavior, Deserialize, Serialize
from snakepit.servicer.coroutine_context import CoroutineContext
from snakepit.servicer.metadata import CANCELLED, UNIMPLEMENTED
from snakepit.worker.wire import CallWire, CancelledCallError


def is_coroutine(behavior: Any) -> bool:
    """Whether grpc.aio would run this handler on its loop."""
    return inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)


class Coroutine:
    """A coroutine handler with its look-ups done, of any of the four kinds."""

    __slots__ = ("_behavior", "_deserialize", "_generates", "_path", "_response_streaming", "_serialize", "_streaming")

    def __init__(
        self,
        path: str,
        behavior: Behavior,
        streaming: bool,
        response_streaming: bool,
        deserialize: Deserialize,
        serialize: Serialize,
    ) -> None:
        self._path = path
        self._behavior = behavior
        # Whether the request is a stream.
        self._streaming = streaming
        self._response_streaming = response_streaming
        self._generates = inspect.isasyncgenfunction(behavior)
        self._deserialize = deserialize
        self._serialize = serialize

    def serve(self, wire: CallWire) -> None:
        """Serve one call from the handler's thread, which waits for the loop meanwhile."""
        context = CoroutineContext(wire, self._deserialize, self._serialize)
        raw = None
        if not self._streaming:
            try:
                raw = wire.receive()
            except CancelledCallError:
                wire.finish(CANCELLED, "the call was cancelled")
                return
            if raw is None:
                wire.finish(UNIMPLEMENTED, f'"{self._path}" requires exactly one request message.')
                return
        run(wire, context, self.respond(context, raw))
        context.finish()

    async def serve_here(self, context: CoroutineContext) -> None:
        """Serve one call from within the loop; the caller ends it."""
        context.encode_with(self._deserialize, self._serialize)
        raw = None
        if not self._streaming:
            raw = await context.receive()
            if raw is None:
                context.settle(UNIMPLEMENTED, f'"{self._path}" requires exactly one request message.')
                return
        await self.respond(context, raw)

    async def respond(self, context: CoroutineContext, raw: bytes | None) -> None:
        """Run the handler for a request, None for a streamed one; it leaves its answer in the context."""
        request: Any = _Requests(context)
        if raw is not None:
            request = raw if self._deserialize is None else self._deserialize(raw)
        if not self._response_streaming:
            context.answer(await self._behavior(request, context))
            return
        if self._generates:
            await self._send_all(self._behavior(request, context), context)
        else:
            await self._behavior(request, context)

    async def _send_all(self, responses: AsyncGenerator[Any, None], context: CoroutineContext) -> None:
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()


def run(wire: CallWire, context: CoroutineContext, coroutine: Coroutine_[Any, Any, None]) -> None:
    """Run what serves a call on the loop; how it failed is left in the context."""
    try:
        wire.run_coroutine(_served(context, coroutine))
    except (CancelledCallError, asyncio.CancelledError) as error:
        # Before it began.
        context.cancelled_by(error)


async def _served(context: CoroutineContext, coroutine: Coroutine_[Any, Any, None]) -> None:
    """Let nothing leave the call's task: SystemExit would end the loop, and with it every other call."""
    try:
        await coroutine
    except (CancelledCallError, asyncio.CancelledError) as error:
        context.cancelled_by(error)
    except BaseException as error:
        context.raised(error)
    context.call_back()


class _Requests:
    """The messages of a request as an asynchronous iterator."""

    __slots__ = ("_context",)

    def __init__(self, context: CoroutineContext) -> None:
        self._context = context

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is aio.EOF:
            raise StopAsyncIteration
        return message
