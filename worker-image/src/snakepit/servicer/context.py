"""The context of one call, as `grpc.server` gives it to handlers that are plain functions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

import grpc

from snakepit import logs
from snakepit.context import Session, Worker
from snakepit.servicer import metadata
from snakepit.servicer.metadata import CANCELLED, INTERNAL, INVALID_METADATA, OK, UNKNOWN, Metadatum
from snakepit.worker.failure import FailureError, log_exception
from snakepit.worker.wire import CallWire, CancelledCallError

# grpc.server's time_remaining() of a call without a deadline: the end of time less the time since 1970.
_END_OF_TIME: Final = 9.223372036854776e18
# What grpcio says of a connection without TLS: callers reach the router that way.
AUTH_CONTEXT: Final[Mapping[str, Sequence[bytes]]] = {
    "transport_security_type": [b"insecure"],
    "security_level": [b"TSI_SECURITY_NONE"],
}

# Guards the callbacks of every context: they are rare and short to handle.
_callbacks_lock = threading.Lock()
# Runs callbacks of cancelled calls, one after the other as in grpcio: they may block, the control thread may not.
_callbacks_thread = ThreadPoolExecutor(1, "snakepit-callbacks")


class ServicerContext:
    """A `grpc.ServicerContext` of one call. Besides grpcio's methods it has `session`, `worker` and `request_id`."""

    __slots__ = (
        "_aborted",
        "_callbacks",
        "_code",
        "_details",
        "_final",
        "_given_up",
        "_headers_sent",
        "_metadata",
        "_rpc_errors",
        "_trailing",
        "_wire",
    )

    def __init__(self, wire: CallWire) -> None:
        self._wire = wire
        self._code: Any = None
        self._details: bytes | None = None
        self._trailing: Any = None
        self._headers_sent = False
        self._aborted = False
        # Set by cancel().
        self._given_up = False
        # Code and message that the runtime has settled on; what the handler does from then on does not count.
        self._final: tuple[int, str] | None = None
        self._callbacks: list[Callable[[], None]] | None = None
        self._rpc_errors: tuple[Exception, ...] = ()
        self._metadata: tuple[Metadatum, ...] | None = None

    # What grpcio does not have.

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

    # The call.

    def is_active(self) -> bool:
        """Whether the call is neither cancelled nor answered."""
        return self._final is None and not self.cancelled()

    def time_remaining(self) -> float:
        """Return the seconds until the deadline, never below 0; centuries when there is none, as grpcio does."""
        deadline = self._wire.deadline
        if deadline is None:
            return _END_OF_TIME - time.time()
        return max(deadline - time.monotonic(), 0)

    def cancel(self) -> None:
        """End the call with CANCELLED; its answer, which grpcio sends at once, waits for the handler's return."""
        self._given_up = True
        self._cancelled_now()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call back when the call has ended or is cancelled; False when that is so already."""
        with _callbacks_lock:
            if not self.is_active():
                return False
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return True
            self._callbacks = [callback]
        # Outside the lock: the wire may call back under a lock of its own.
        if self._wire.on_cancel(self._cancelled_now):
            return True
        with _callbacks_lock:
            self._callbacks = None
        return False

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """Return the caller's metadata."""
        if self._metadata is None:
            self._metadata = metadata.incoming(self._wire.metadata)
        return self._metadata

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

    # The answer.

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: the router decides how answers are compressed."""

    def disable_next_message_compression(self) -> None:
        """Do nothing, see set_compression."""

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send initial metadata at once; ValueError when it has been sent, or a message."""
        if self.cancelled():
            self.raise_rpc_error()
        if self._headers_sent:
            raise ValueError("Initial metadata no longer allowed!")
        try:
            entries = metadata.outgoing(initial_metadata)
        except metadata.InvalidMetadataError as error:
            self._headers_sent = True
            self._final = (INTERNAL, str(error))
            return
        self._headers_sent = True
        try:
            self._wire.send_headers(entries)
        except CancelledCallError:
            self.raise_rpc_error()

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set the metadata that goes with the status."""
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        """Return what set_trailing_metadata was given."""
        return self._trailing

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the handler by an exception, and the call with this status."""
        if code == grpc.StatusCode.OK:
            logs.write("servicer", "abort() called with StatusCode.OK; returning UNKNOWN")
            code = grpc.StatusCode.UNKNOWN
            details = ""
        self._code = code
        self._details = _encoded(details)
        self._aborted = True
        raise Exception

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Call abort with a status that has trailing metadata."""
        self._trailing = status.trailing_metadata
        self.abort(status.code, status.details)

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status code of the answer."""
        self._code = code

    def code(self) -> grpc.StatusCode | None:
        """Return what set_code was given."""
        return self._code  # type: ignore[no-any-return]

    def set_details(self, details: str) -> None:
        """Set the status message of the answer."""
        self._details = _encoded(details)

    def details(self) -> bytes | None:
        """Return what set_details was given, in UTF-8."""
        return self._details

    # For the runtime.

    def receive(self) -> bytes | None:
        """Return the next message of the request, None at its end."""
        return self._wire.receive()

    def raise_rpc_error(self) -> NoReturn:
        """Raise the RpcError of a call that is cancelled; when it comes back from the handler, it is no failure."""
        error = grpc.RpcError()
        self._rpc_errors += (error,)
        raise error from None

    def settle(self, code: int, message: str) -> None:
        """Fail the call, once; what the handler has set as code and message goes first."""
        if self._final is None:
            chosen = code if self._code is None else metadata.sync_code(self._code)
            self._final = (chosen, message if self._details is None else metadata.text_of(self._details))

    def raised(self, error: BaseException, while_what: str) -> None:
        """Fail the call because its handler raised `error`."""
        if self._aborted:
            self.settle(UNKNOWN, "RPC Aborted")
        elif isinstance(error, FailureError):
            self.settle(int(error.failure.code), error.failure.info.message)
        elif error not in self._rpc_errors:
            try:
                text = f"Exception {while_what}: {error}"
            except Exception:
                text = "Calling application raised unprintable Exception!"
            log_exception(f"exception {while_what}", error)
            self.settle(UNKNOWN, text)

    def send(self, message: bytes) -> bool:
        """Send one message of a streamed answer; False when nobody waits for it any more."""
        if self._final is not None or self.cancelled():
            return False
        try:
            self._wire.send(message)
        except CancelledCallError:
            return False
        except FailureError as error:
            self.raised(error, "sending a response")
            return False
        self._headers_sent = True
        return True

    def finish(self, answer: bytes | None = None) -> None:
        """End the call with what is settled, or with what the handler has set, then call back."""
        code, message = self._status()
        trailers: tuple[metadata.Entry, ...] = ()
        if self._trailing:
            try:
                trailers = metadata.outgoing(self._trailing)
            except Exception as error:
                log_exception("the trailing metadata cannot be sent", error)
                code, answer = INTERNAL, None
                message = str(error) if isinstance(error, metadata.InvalidMetadataError) else INVALID_METADATA
        if self._final is not None or self._given_up:
            answer = None
        self._final = (code, message)
        try:
            self._wire.finish(code, message, trailers, answer)
        finally:
            if self._callbacks is not None:
                for callback in self._take_callbacks():
                    _call(callback)

    def _status(self) -> tuple[int, str]:
        if self.cancelled():
            return CANCELLED, "the call was cancelled"
        if self._final is not None:
            return self._final
        code = OK if self._code is None else metadata.sync_code(self._code)
        return code, "" if self._details is None else metadata.text_of(self._details)

    def cancelled(self) -> bool:
        """Whether the caller or the handler gave the call up."""
        return self._given_up or self._wire.cancelled

    def _cancelled_now(self) -> None:
        callbacks = self._take_callbacks()
        if callbacks:
            _callbacks_thread.submit(_call_all, callbacks)

    def _take_callbacks(self) -> list[Callable[[], None]]:
        with _callbacks_lock:
            callbacks, self._callbacks = self._callbacks or [], None
        return callbacks


def _encoded(details: Any) -> bytes:
    return details if isinstance(details, bytes) else details.encode()


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        _call(callback)


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception as error:
        log_exception("a callback of the context raised", error)


grpc.ServicerContext.register(ServicerContext)
