"""Handlers that are plain functions: served in the handler's thread, as `grpc.server` does it in a pool of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any, Final

from snakepit import logs
from snakepit.servicer.context import ServicerContext
from snakepit.servicer.metadata import CANCELLED, INTERNAL, UNIMPLEMENTED
from snakepit.worker.failure import log_exception
from snakepit.worker.wire import CallWire, CancelledCallError

Deserialize = Callable[[bytes], Any] | None
Serialize = Callable[[Any], bytes] | None
Behavior = Callable[..., Any]

_NO_REQUEST: Final = "Exception deserializing request!"
_NO_RESPONSE: Final = "Failed to serialize response!"


class _Handler:
    """A handler with its look-ups done."""

    __slots__ = ("_behavior", "_deserialize", "_path", "_serialize", "_streaming")

    def __init__(
        self, path: str, behavior: Behavior, streaming: bool, deserialize: Deserialize, serialize: Serialize
    ) -> None:
        self._path = path
        self._behavior = behavior
        # Whether the request is a stream.
        self._streaming = streaming
        self._deserialize = deserialize
        self._serialize = serialize


class Unary(_Handler):
    """A handler that returns one response."""

    __slots__ = ()

    def serve(self, wire: CallWire) -> None:
        """Serve one call."""
        context = ServicerContext(wire)
        if self._streaming:
            request: Any = RequestIterator(context, self._deserialize)
        else:
            request = one_request(wire, context, self._deserialize, self._path)
            if request is None:
                return
        try:
            response = self._behavior(request, context)
        except BaseException as error:
            context.raised(error, "calling application")
            context.finish()
            return
        answer = serialized(response, self._serialize)
        if answer is None:
            context.settle(INTERNAL, _NO_RESPONSE)
        context.finish(answer)


class Stream(_Handler):
    """A handler that returns an iterator of responses."""

    __slots__ = ()

    def serve(self, wire: CallWire) -> None:
        """Serve one call."""
        context = ServicerContext(wire)
        if self._streaming:
            request: Any = RequestIterator(context, self._deserialize)
        else:
            request = one_request(wire, context, self._deserialize, self._path)
            if request is None:
                return
        try:
            responses = self._behavior(request, context)
        except BaseException as error:
            context.raised(error, "calling application")
        else:
            self._send_all(responses, context)
            # A generator ends here at the latest, as it does with grpcio when its last reference goes.
            if isinstance(responses, GeneratorType):
                _close(responses)
        context.finish()

    def _send_all(self, responses: Iterator[Any], context: ServicerContext) -> None:
        while True:
            try:
                response = next(responses)
            except StopIteration:
                return
            except BaseException as error:
                context.raised(error, "iterating responses")
                return
            if response is None:
                # grpcio takes None for the end of the stream.
                return
            message = serialized(response, self._serialize)
            if message is None:
                context.settle(INTERNAL, _NO_RESPONSE)
                return
            if not context.send(message):
                return


def one_request(wire: CallWire, context: ServicerContext, deserialize: Deserialize, path: str) -> Any:
    """Return the only request of a call, or end the call and return None."""
    try:
        raw = wire.receive()
    except CancelledCallError:
        wire.finish(CANCELLED, "the call was cancelled")
        return None
    if raw is None:
        wire.finish(UNIMPLEMENTED, f'"{path}" requires exactly one request message.')
        return None
    if deserialize is None:
        return raw
    request = deserialized(raw, deserialize)
    if request is None:
        wire.finish(INTERNAL, _NO_REQUEST)
    return request


def _close(responses: GeneratorType[Any, Any, Any]) -> None:
    try:
        responses.close()
    except BaseException as error:
        log_exception("a generator of responses raised while it was closed", error)


class RequestIterator:
    """The messages of a request, one at a time. A thread of the handler's own may iterate too."""

    __slots__ = ("_context", "_deserialize", "_ended", "_lock")

    def __init__(self, context: ServicerContext, deserialize: Deserialize) -> None:
        self._context = context
        self._deserialize = deserialize
        self._ended = False
        self._lock = threading.Lock()
        context.reading(self.wait_ended)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        context = self._context
        if not context.is_active():
            if context.cancelled():
                context.raise_rpc_error()
            raise StopIteration
        with self._lock:
            if self._ended:
                raise StopIteration
            try:
                raw = context.receive()
            except CancelledCallError:
                context.raise_rpc_error()
            if raw is None:
                self._ended = True
                raise StopIteration
        request = deserialized(raw, self._deserialize)
        if request is None:
            context.settle(INTERNAL, _NO_REQUEST)
            raise StopIteration
        return request

    next = __next__

    def wait_ended(self) -> None:
        """Wait until no thread of the handler's own reads any more; the end of the call wakes it."""
        with self._lock:
            self._ended = True


def deserialized(raw: bytes, deserialize: Deserialize) -> Any:
    """Return a request, or None when it cannot be read."""
    if deserialize is None:
        return raw
    try:
        return deserialize(raw)
    except Exception as error:
        log_exception("exception deserializing a request", error)
        return None


def serialized(response: Any, serialize: Serialize) -> bytes | None:
    """Return the bytes of a response, or None when it has none."""
    try:
        raw = response if serialize is None else serialize(response)
    except Exception as error:
        log_exception("exception serializing a response", error)
        return None
    if raw is None or type(raw) is bytes:
        return raw
    if isinstance(raw, bytes):
        return bytes(raw)
    logs.write("servicer", "the response serializer did not return bytes", type=type(raw).__name__)
    return None
