"""The context of one call, as `grpc.aio.server` gives it to handlers that are coroutines."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, NoReturn

import grpc
from grpc import aio

from snakepit import logs
from snakepit.context import Session, Worker
from snakepit.servicer import metadata
from snakepit.servicer.blocking import Deserialize, Serialize
from snakepit.servicer.context import AUTH_CONTEXT
from snakepit.servicer.metadata import CANCELLED, INTERNAL, INVALID_METADATA, OK, UNKNOWN, Metadatum
from snakepit.worker.failure import FailureError, log_exception
from snakepit.worker.wire import CallWire

# Threads that wait for messages and for credit, so that the loop never does: at most one of each a call, and at most
# 256 calls run in a worker.
_MAX_THREADS: Final = 512
_threads = ThreadPoolExecutor(_MAX_THREADS, "snakepit-stream")


class CoroutineContext:
    """A `grpc.aio.ServicerContext` of one call. Besides its methods it has `session`, `worker` and `request_id`."""

    __slots__ = (
        "_abort",
        "_answer",
        "_callbacks",
        "_code",
        "_deserialize",
        "_details",
        "_final",
        "_given_code",
        "_headers_sent",
        "_metadata",
        "_reading",
        "_sending",
        "_serialize",
        "_trailing",
        "_wire",
    )

    def __init__(self, wire: CallWire, deserialize: Deserialize, serialize: Serialize) -> None:
        self._wire = wire
        self._deserialize = deserialize
        self._serialize = serialize
        self._code = OK
        # What the handler gave as code: a grpc.StatusCode or an integer.
        self._given_code: Any = None
        self._details = ""
        self._trailing: tuple[Any, ...] = ()
        self._headers_sent = False
        self._abort: aio.AbortError | None = None
        # Code and message that the runtime has settled on.
        self._final: tuple[int, str] | None = None
        self._answer: bytes | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._reading: threading.Lock | None = None
        self._sending: Future[None] | None = None
        self._metadata: tuple[Metadatum, ...] | None = None

    # What grpc.aio does not have.

    @property
    def session(self) -> Session | None:
        """The session of the call, whose `state` lives as long as it does; None without one."""
        return self._wire.session

    @property
    def worker(self) -> Worker:
        """The process that runs the handler."""
        return self._wire.worker

    @property
    def request_id(self) -> str:
        """The id that the answer's metadata and the router's log name this call by."""
        return self._wire.request_id

    # Messages.

    async def read(self) -> Any:
        """Return the next message of the request, grpc.aio.EOF at its end."""
        self.check_running()
        raw = await self.receive()
        self.check_running()
        if raw is None:
            return aio.EOF
        return raw if self._deserialize is None else self._deserialize(raw)

    async def write(self, message: Any) -> None:
        """Send one message of a streamed answer."""
        self.check_running()
        raw = self._bytes(message)
        if self._sending is not None:
            # A write that its caller gave up still goes on.
            await asyncio.wrap_future(self._sending)
        self._headers_sent = True
        if not self._wire.try_send(raw):
            self._sending = _threads.submit(self._wire.send, raw)
            await asyncio.wrap_future(self._sending)
            self._sending = None

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send initial metadata at once; UsageError when it has been sent, or a message."""
        self.check_running()
        if self._headers_sent:
            raise aio.UsageError("Send initial metadata failed: already sent")
        try:
            entries = metadata.outgoing(tuple(initial_metadata))
        except metadata.InvalidMetadataError as error:
            self._final = (INTERNAL, str(error))
            self._headers_sent = True
            return
        self._headers_sent = True
        self._wire.send_headers(entries)

    # Status.

    async def abort(self, code: Any, details: str = "", trailing_metadata: tuple[Any, ...] = ()) -> NoReturn:
        """End the handler by an AbortError, and the call with this status."""
        _check_text(details)
        if not isinstance(trailing_metadata, tuple):
            given = type(trailing_metadata).__name__
            raise TypeError(f"Argument 'trailing_metadata' has incorrect type (expected tuple, got {given})")
        if self._abort is not None:
            raise aio.UsageError("Abort already called!")
        self._abort = aio.AbortError("Locally aborted.")
        if trailing_metadata or not self._trailing:
            metadata.check_trailing(trailing_metadata)
            self._trailing = trailing_metadata
        self._details = self._details if details == "" else details
        self._given_code = code
        self._code = metadata.coroutine_code(code)
        if self._code == OK:
            # grpc.aio would leave the caller of a unary method without an answer.
            logs.write("servicer", "abort() called with StatusCode.OK; returning UNKNOWN")
            self._code, self._details = UNKNOWN, ""
        raise self._abort

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Call abort with a status that has trailing metadata."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set the metadata that goes with the status."""
        metadata.check_trailing(trailing_metadata)
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> tuple[Any, ...]:
        """Return what set_trailing_metadata was given."""
        return self._trailing

    def set_code(self, code: Any) -> None:
        """Set the status code of the answer; with any but OK a response is not sent."""
        self._code = metadata.coroutine_code(code)
        self._given_code = code

    def code(self) -> Any:
        """Return what set_code was given."""
        return self._given_code

    def set_details(self, details: str) -> None:
        """Set the status message of the answer."""
        _check_text(details)
        self._details = details

    def details(self) -> str:
        """Return what set_details was given."""
        return self._details

    # The call.

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """Return the caller's metadata."""
        if self._metadata is None:
            self._metadata = metadata.incoming(self._wire.metadata)
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, never below 0; None when there is none."""
        deadline = self._wire.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0)

    def peer(self) -> str:
        """Return the caller's address, such as ipv4:10.0.0.7:51234."""
        return self._wire.peer

    def peer_identities(self) -> None:
        """Return None: callers are not authenticated by certificates."""

    def peer_identity_key(self) -> None:
        """Return None, see peer_identities."""

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """Return what grpcio returns for a connection without TLS."""
        return dict(AUTH_CONTEXT)

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: the router decides how answers are compressed."""
        if self._headers_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")

    def disable_next_message_compression(self) -> None:
        """Do nothing, see set_compression."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back with this context when the call has ended."""
        self._callbacks.append(functools.partial(callback, self))

    def done(self) -> bool:
        """Whether the status is settled."""
        return self._final is not None or self._abort is not None

    def cancelled(self) -> bool:
        """Whether the handler has set the code CANCELLED, as in grpc.aio; a caller's cancel raises CancelledError."""
        return self._code == CANCELLED

    # For the runtime.

    def check_running(self) -> None:
        """Raise when the call was aborted or has been answered: handlers may have swallowed the first exception."""
        if self._abort is not None:
            raise self._abort
        if self._final is not None:
            raise aio.UsageError("RPC already finished.")

    def encode_with(self, deserialize: Deserialize, serialize: Serialize) -> None:
        """Set how messages are read and written, once the handler is known."""
        self._deserialize = deserialize
        self._serialize = serialize

    async def receive(self) -> bytes | None:
        """Return the next message's bytes, None at the end of the request; a thread waits where it has not come."""
        if self._reading is None:
            self._reading = threading.Lock()
        if not self._reading.locked():
            ready, message = self._wire.try_receive()
            if ready:
                return message
        return await asyncio.wrap_future(_threads.submit(self._receive, self._reading))

    def _receive(self, lock: threading.Lock) -> bytes | None:
        with lock:
            return self._wire.receive()

    def answer(self, response: Any) -> None:
        """Keep the only response; of a call that fails it is an empty one, as in grpc.aio."""
        self._answer = self._bytes(response) if self._code == OK else b""

    def settle(self, code: int, message: str) -> None:
        """Fail the call, once."""
        if self._final is None and self._abort is None:
            self._final = (code, message)

    def raised(self, error: BaseException) -> None:
        """Fail the call because its handler raised `error`."""
        if error is self._abort:
            return
        if isinstance(error, FailureError):
            self.settle(int(error.failure.code), error.failure.info.message)
            return
        log_exception("exception in a servicer's method", error)
        try:
            text = f"Unexpected {type(error)}: {error}"
        except Exception:
            text = f"Unexpected {type(error)}"
        self.settle(self._code if self._code != OK else UNKNOWN, text)

    def cancelled_by(self, error: BaseException) -> None:
        """End the call that a cancel has ended, or a handler that raised CancelledError by itself."""
        if not self._wire.cancelled:
            log_exception("a servicer's method was cancelled from within", error)
        self.settle(CANCELLED, "the call was cancelled")

    def finish(self) -> None:
        """End the call, then call back; runs in the handler's thread."""
        if self._sending is not None:
            # Nothing may be sent any more when the status is.
            wait((self._sending,))
        code, message = self._final or (self._code, metadata.text_of(self._details))
        answer = self._answer if self._final is None and self._abort is None else None
        trailers: tuple[metadata.Entry, ...] = ()
        if self._trailing:
            try:
                trailers = metadata.outgoing(self._trailing)
            except Exception as error:
                log_exception("the trailing metadata cannot be sent", error)
                code, answer = INTERNAL, None
                message = str(error) if isinstance(error, metadata.InvalidMetadataError) else INVALID_METADATA
        self._final = (code, message)
        try:
            self._wire.finish(code, message, trailers, answer)
        finally:
            # Those of a call whose coroutine never began.
            self.call_back()

    def call_back(self) -> None:
        """Run the callbacks, once; on the loop, where they may touch what belongs to it."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception as error:
                log_exception("a callback of the context raised", error)

    def _bytes(self, message: Any) -> bytes:
        """Return the bytes of a message; raise what grpc.aio's serialization raises."""
        if isinstance(message, str):
            message = message.encode()
        raw = message if self._serialize is None else self._serialize(message)
        if not isinstance(raw, bytes):
            raise TypeError(f"Expected bytes, got {type(raw).__name__}")
        return raw


def _check_text(details: Any) -> None:
    if details is not None and not isinstance(details, str):
        raise TypeError(f"Argument 'details' has incorrect type (expected str, got {type(details).__name__})")


aio.ServicerContext.register(CoroutineContext)
