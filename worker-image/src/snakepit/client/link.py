"""The channel to one router, and one call on it with the only retry rule there is."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
import grpc.experimental

from snakepit import messages
from snakepit.client import errors, wire
from snakepit.client.failure import Origin, metadata_of, translate
from snakepit.client.options import Metadata, Options

MAX_REPEATS: Final = 2
_FIRST_WAIT: Final = 0.1  # seconds before an idempotent call is repeated without a hint; doubled each time

_POOL: Final = "/snakepit.v1alpha1.Pool/"
_METHODS: Final[dict[str, tuple[str, Callable[[bytes], Any]]]] = {
    "Execute": (_POOL + "Execute", messages.ExecuteResponse.FromString),
    "ExecuteStream": (_POOL + "ExecuteStream", messages.ExecuteStreamResponse.FromString),
    "CloseSession": (_POOL + "CloseSession", messages.CloseSessionResponse.FromString),
    "ListTools": (_POOL + "ListTools", messages.ListToolsResponse.FromString),
    "Watch": ("/grpc.health.v1.Health/Watch", wire.HealthCheckResponse.FromString),
}

_CHANNEL_OPTIONS: Final[list[tuple[str, int]]] = [
    # gRPC's own retries know neither execution nor sessions: the rule in Call is the only one.
    ("grpc.enable_retries", 0),
    # Pods often carry http_proxy for the outer world; a pool's address is inside.
    ("grpc.enable_http_proxy", 0),
    # The pool's calls.maxMessageBytes is the limit, and the router says so when it is passed.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Trailers above the default soft limit of 8 KiB make gRPC report another error than the real one.
    ("grpc.max_metadata_size", 64 * 1024),
    # Find a dead peer under a long call; no pings while nothing is called.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # A router or its name may be seconds old: look again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]


class Link:
    """A channel to one router, shared by a client, its views and its sessions. Safe for use by many threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        # A stream read by the caller's own thread costs half of one that another thread feeds.
        single_threaded = (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)
        self._channel: Any = grpc.insecure_channel(address, options=[*_CHANNEL_OPTIONS, single_threaded])
        # Every method is read as a stream, unary ones too: gRPC's unary call drops the body beside an error.
        self._methods: dict[str, Any] = {
            name: self._channel.unary_stream(path, response_deserializer=read)
            for name, (path, read) in _METHODS.items()
        }
        self._closed = threading.Event()
        self._process = os.getpid()

    def start(self, method: str, payload: bytes, timeout: float, metadata: Metadata) -> Any:
        """Send a request and return the running call: an iterator of its answers."""
        if self._process != os.getpid():
            raise errors.Closed("this client was made before a fork; make a client in each process")
        if not self._closed.is_set():
            try:
                return self._methods[method](payload, timeout=timeout, metadata=metadata)
            except ValueError:
                # What grpcio raises on a closed channel, when another thread closed it just now.
                if not self._closed.is_set():
                    raise
        raise errors.Closed("the client is closed; make a new one")

    def pause(self, seconds: float) -> bool:
        """Wait, and say whether the link is still open."""
        return not self._closed.wait(seconds)

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """End the channel; running calls fail with Closed."""
        self._closed.set()
        if self._process == os.getpid():
            self._channel.close()


class Life(Protocol):
    """What a call asks of, and tells, the session that it belongs to."""

    name: str

    def attach(self) -> tuple[int, Metadata]:
        """Return the number of the life and the metadata of a call in it, or raise why there can be none."""

    def learn(self, number: int, headers: dict[str, str]) -> None:
        """Take what an answer or a refusal says about the life."""

    def fail(self, number: int, error: errors.SnakepitError) -> None:
        """Take the failure of a call."""


class Call:
    """One call, repeated where that is safe, read message by message. One thread reads; any may cancel."""

    def __init__(
        self,
        link: Link,
        method: str,
        payload: bytes,
        options: Options,
        *,
        tool: str = "",
        life: Life | None = None,
        metadata: Metadata = (),
    ) -> None:
        request_id = options.request_id or os.urandom(16).hex()
        name = life.name if life is not None else ""
        self.origin = Origin(link.address, tool, name, request_id, options.timeout)
        self.worker = ""
        self._link = link
        self._method = method
        self._payload = payload
        self._options = options
        self._life = life
        self._metadata = (*options.prepared, *metadata, ("snakepit-request-id", request_id))
        self._deadline = time.monotonic() + options.timeout
        self._repeats = 0
        self._delivered = False
        self._cancelled = False
        self._body: Any = None
        self._start()

    def _start(self) -> None:
        self._life_number, session = self._life.attach() if self._life is not None else (0, ())
        left = max(self._deadline - time.monotonic(), 0.001)
        self._rpc = self._link.start(self._method, self._payload, left, (*session, *self._metadata))

    def read(self) -> Any:
        """Return the next message, None at the end, or raise what the call failed with."""
        while True:
            failed: Any = None
            try:
                message = next(self._rpc)
            except StopIteration:
                break
            except grpc.RpcError as status:
                failed = status
            except BaseException:  # Ctrl-C, for one: nobody will read this call again
                self.cancel()
                raise
            if failed is not None:
                if self._cancelled:
                    return None
                error = self._failure(failed)
                if not self._may_repeat(error):
                    raise error
                self._start()
            elif self._is_error(message):
                self._body = message.error  # the status that explains it follows
            else:
                if not self._delivered and self._method == "ExecuteStream":
                    self._learn(dict(self._rpc.initial_metadata() or ()))
                self._delivered = True
                return message
        if self._life is not None or self._method == "ExecuteStream":
            self._learn(metadata_of(self._rpc))
        if self._body is not None:
            raise self._failure(self._rpc)
        return None

    def _is_error(self, message: Any) -> bool:
        return self._method.startswith("Execute") and message.WhichOneof("outcome") == "error"

    def _learn(self, headers: dict[str, str]) -> None:
        """Take what the headers say: of a stream at its first message, and again with the trailers at the end."""
        self.worker = headers.get("snakepit-worker", self.worker)
        if self._life is not None:
            self._life.learn(self._life_number, headers)

    def _failure(self, status: Any) -> errors.SnakepitError:
        if self._link.closed and status.code() is grpc.StatusCode.CANCELLED:
            return errors.Closed("the client was closed during the call", execution=errors.MAYBE_EXECUTED)
        error = translate(status, self.origin, self._body)
        if self._life is not None:
            self._life.learn(self._life_number, metadata_of(status))
            self._life.fail(self._life_number, error)
        return error

    def _may_repeat(self, error: errors.SnakepitError) -> bool:
        """Say whether to call again, after the wait that the router asked for; never past the deadline."""
        if self._delivered or self._repeats == MAX_REPEATS or error.no_retry:
            return False
        if isinstance(error, errors.SessionError):
            return False
        if error.execution == errors.NOT_STARTED and error.retry_after is not None:
            wait = error.retry_after
        elif self._options.idempotent and isinstance(error, errors.TransportError):
            wait = _FIRST_WAIT * 2**self._repeats
        else:
            return False
        # Callers that were refused together must not come back together.
        wait = max(wait, 0.01) * random.uniform(1.0, 1.3)
        if time.monotonic() + wait >= self._deadline:
            return False
        self._repeats += 1
        return self._link.pause(wait)

    def cancel(self) -> None:
        """End the call; read then returns None."""
        self._cancelled = True
        self._rpc.cancel()
