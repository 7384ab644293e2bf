"""One gRPC method of a servicer: its handler, and the interceptors before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Final, NamedTuple

import grpc
from grpc import aio

from snakepit.servicer import metadata
from snakepit.servicer.blocking import Stream, Unary
from snakepit.servicer.coroutine import Coroutine, is_coroutine, run
from snakepit.servicer.coroutine_context import CoroutineContext
from snakepit.servicer.metadata import UNIMPLEMENTED, UNKNOWN
from snakepit.worker.failure import log_exception
from snakepit.worker.wire import CallWire

Prepared = Unary | Stream | Coroutine
_NOT_FOUND: Final = "Method not found!"


class CallDetails(NamedTuple):
    """What interceptors and generic handlers are told about a call: a `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]]


grpc.HandlerCallDetails.register(CallDetails)

# Returns the grpc.RpcMethodHandler that serves a call, or None.
Lookup = Callable[[Any], Any]


class Method:
    """One method, as worker/wire.py describes it."""

    __slots__ = ("_serve", "client_streaming", "idempotent", "path", "server_streaming")

    def __init__(
        self, path: str, handler: Any, interceptors: Sequence[Any] = (), lookup: Lookup = lambda _: None
    ) -> None:
        """Serve `handler`. Behind interceptors `lookup` finds it, or another one if they have changed the details."""
        self.path = path
        self.client_streaming = bool(handler.request_streaming)
        self.server_streaming = bool(handler.response_streaming)
        self.idempotent = False
        prepared = prepare(path, handler)
        self._serve = prepared.serve
        if interceptors:
            self._serve = _Intercepted(path, (handler, prepared), interceptors, lookup).serve

    def run(self, wire: CallWire) -> None:
        """Serve one call, in a context (of contextvars) of its own, as grpcio does."""
        Context().run(self._serve, wire)


def prepare(path: str, handler: Any) -> Prepared:
    """Return a grpc.RpcMethodHandler with its look-ups done."""
    requests, responses = bool(handler.request_streaming), bool(handler.response_streaming)
    behavior = getattr(handler, f"{'stream' if requests else 'unary'}_{'stream' if responses else 'unary'}")
    deserialize, serialize = handler.request_deserializer, handler.response_serializer
    if is_coroutine(behavior):
        return Coroutine(path, behavior, requests, responses, deserialize, serialize)
    kind = Stream if responses else Unary
    return kind(path, behavior, requests, deserialize, serialize)


def check_interceptors(interceptors: Sequence[Any]) -> tuple[Any, ...]:
    """Return the interceptors, or raise ValueError where one cannot be asked at its place."""
    after_aio = False
    for interceptor in interceptors:
        if not callable(getattr(interceptor, "intercept_service", None)):
            raise ValueError(f"{interceptor!r} is no server interceptor: it has no intercept_service()")
        if _is_aio(interceptor):
            after_aio = True
        elif after_aio:
            text = "a grpc.ServerInterceptor cannot come after one of grpc.aio, which would have to wait for it"
            raise ValueError(f"{interceptor!r}: {text}; put it first in interceptors=[...]")
    return tuple(interceptors)


def _is_aio(interceptor: Any) -> bool:
    return isinstance(interceptor, aio.ServerInterceptor) or is_coroutine(interceptor.intercept_service)


class _Intercepted:
    """A method behind interceptors: first those of grpc.ServerInterceptor, then those of grpc.aio."""

    def __init__(
        self, path: str, registered: tuple[Any, Prepared], interceptors: Sequence[Any], lookup: Lookup
    ) -> None:
        self._path = path
        # The handler of the last call, prepared: mostly it is always the same one.
        self._last = registered
        self._blocking = [each for each in interceptors if not _is_aio(each)]
        self._aio = [each for each in interceptors if _is_aio(each)]
        self._lookup = lookup

    def serve(self, wire: CallWire) -> None:
        """Serve one call."""
        details = CallDetails(self._path, metadata.incoming(wire.metadata))
        if not self._blocking:
            self._serve_on_loop(wire, details)
            return
        try:
            handler = self._intercept(0, wire, details)
        except BaseException as error:
            log_exception("exception in a server interceptor", error)
            wire.finish(UNKNOWN, "Error in service handler!")
            return
        if handler is None:
            wire.finish(UNIMPLEMENTED, _NOT_FOUND)
            return
        self._prepared(handler).serve(wire)

    def _intercept(self, index: int, wire: CallWire, details: Any) -> Any:
        """Ask the interceptors from `index` on, then look the handler up."""
        if index < len(self._blocking):
            ask = self._blocking[index].intercept_service
            return ask(lambda changed: self._intercept(index + 1, wire, changed), details)
        if self._aio:
            return wire.run_coroutine(self._intercept_on_loop(0, details))
        return self._lookup(details)

    async def _intercept_on_loop(self, index: int, details: Any) -> Any:
        if index < len(self._aio):
            ask = self._aio[index].intercept_service
            return await ask(lambda changed: self._intercept_on_loop(index + 1, changed), details)
        return self._lookup(details)

    def _prepared(self, handler: Any) -> Prepared:
        last, prepared = self._last
        if handler is not last:
            prepared = prepare(self._path, handler)
            self._last = (handler, prepared)
        return prepared

    def _serve_on_loop(self, wire: CallWire, details: CallDetails) -> None:
        """Ask on the loop. A coroutine handler runs in the same task, so that it sees the interceptors' contextvars."""
        context = CoroutineContext(wire, None, None)
        blocking: list[Prepared] = []

        async def find_and_serve() -> None:
            handler = await self._intercept_on_loop(0, details)
            if handler is None:
                context.settle(UNIMPLEMENTED, _NOT_FOUND)
                return
            prepared = self._prepared(handler)
            if isinstance(prepared, Coroutine):
                await prepared.serve_here(context)
            else:
                blocking.append(prepared)

        run(wire, context, find_and_serve())
        if blocking:
            blocking[0].serve(wire)
        else:
            context.finish()
