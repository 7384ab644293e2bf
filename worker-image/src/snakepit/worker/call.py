"""One accepted call on its connection: the messages of its request, of its answer, and its Finish (wire.CallWire).

A call is used by one handler's thread; only `cancel` and what it needs belong to the control thread too. What few
calls need is made when it is asked for, because making it for each would cost more than the handler of a short one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

from snakepit.bridge import messages
from snakepit.bridge.calls import Credit, Request
from snakepit.bridge.protocol import (
    FLAG_END_MESSAGE,
    FLAG_MESSAGE,
    MAX_EXT,
    VERSION_2,
    Kind,
    ProtocolError,
    encode_head,
    finished_head,
)
from snakepit.bridge.sessions import Outcome
from snakepit.bridge.socket import ConnectionLostError, parse
from snakepit.context import Session, Worker
from snakepit.errors import Code
from snakepit.worker.failure import Failure, FailureError, cut
from snakepit.worker.host import Host
from snakepit.worker.link import LINK_BROKEN, Callbacks, Pair
from snakepit.worker.wire import CancelledCallError, Metadata

_WHOLE: Final = FLAG_MESSAGE | FLAG_END_MESSAGE
# Answers up to here are sent with their head in one piece, without a look at the credit, which is never smaller.
_SHORT: Final = 32 << 10
# The status message of a method is its author's, and may be long; gRPC's own limit for all metadata is 8 KiB.
_MAX_MESSAGE: Final = 4 << 10


class Call:
    """One accepted call."""

    # Computed when asked for, by __getattr__.
    request_id: str
    peer: str
    traceparent: str
    metadata: Metadata
    worker: Worker

    # What is rare has its default here, so that a call without it costs nothing.
    cancelled = False
    finished = False
    # Its unary result is dropped, because the connection for it is gone.
    link_broken = False
    credit: Credit | None = None
    request: Request | None = None
    outcome: Outcome | None = None
    _headers_sent = False
    _callbacks: Callbacks | None = None
    _waiting: Callable[[], None] | None = None
    session: Session | None = None
    # In terms of time.monotonic().
    deadline: float | None = None
    # Whether a feed is told of a cancel already.
    fed = False

    def __init__(self, host: Host, pair: Pair, id: int, ext: bytes, payload: bytes | None, streams: bool) -> None:
        self.host = host
        self.pair = pair
        self.id = id
        self._ext = ext
        # The CallInfo, None when there was no extension. Parsed at once: one that does not parse breaks the rules.
        self.info: Any = parse(messages.CallInfo, ext) if ext else None
        # The whole request; None when it comes in pieces, or was taken.
        self.payload = payload
        self._streams = streams

    def __getattr__(self, name: str) -> Any:
        """Read what the extension says, the first time it is asked for."""
        if name in ("request_id", "peer", "traceparent"):
            found: Any = "" if self.info is None else getattr(self.info, name)
        elif name == "worker":
            found = self.host.worker
        elif name == "metadata":
            found = messages.metadata_of(self.info)
        else:
            raise AttributeError(name)
        setattr(self, name, found)
        return found

    # The request.

    def receive(self) -> bytes | None:
        """Return the next whole message of the request, None at its end."""
        message = self.payload
        if message is not None:
            self.payload = None
            if len(message) > self.pair.max_message_bytes:
                raise self._too_large(len(message), "request")
            return message
        request = self.request
        if request is None:
            return None
        try:
            message = self._next_of(request)
        except ConnectionLostError:
            self._lost()
        except ProtocolError as error:
            self.pair.violated(error)
            self._lost()
        if request.too_large:
            raise self._too_large(request.size, "request")
        return message

    def try_receive(self) -> tuple[bool, bytes | None]:
        """As `receive`, without waiting: (False, None) when the next message has not come yet."""
        request = self.request
        if request is None or self.payload is not None:
            return True, self.receive()
        with self.host.feed.lock:
            ready = request.whole and not request.too_large
        return (True, self.receive()) if ready else (False, None)

    def _next_of(self, request: Request) -> bytes | None:
        feed = self.host.feed
        while True:
            with feed.lock:
                known = request.whole
                message = request.take()
                credit = request.credit()
            if credit:
                self.pair.give_credit(self.id, credit)
            if known:
                return message
            if self.cancelled or self.finished:
                raise CancelledCallError
            feed.more(self)

    def _too_large(self, size: int, what: str) -> FailureError:
        limit = self.pair.max_message_bytes
        text = f"the {what} has {size} bytes, above calls.maxMessageBytes {limit}"
        info = {"limit": str(limit), "size": str(size)}
        return FailureError(Failure(Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", text, info=info))

    @property
    def by_stream(self) -> bool:
        """Whether ExecuteStream made this call of a tool."""
        # Looking for the bytes first is cheaper than reading the metadata of every call.
        return (
            b":method" in self._ext
            and self.info is not None
            and any(entry.key == ":method" and entry.value == b"ExecuteStream" for entry in self.info.metadata)
        )

    def _lost(self) -> NoReturn:
        """Take note that the connection is gone; whoever reads it next connects again."""
        self.pair.end()
        self.cancelled = True
        self.link_broken = True
        raise CancelledCallError

    # The answer.

    def send_headers(self, metadata: Metadata) -> None:
        """Send initial metadata; version 1 has no frame for it, and drops it."""
        if self._headers_sent:
            raise RuntimeError("initial metadata was sent already")
        self._headers_sent = True
        if self.pair.version < VERSION_2:
            return
        ext: bytes = messages.HeadersInfo(metadata=messages.entries(metadata)).SerializeToString()
        self._send_headers(ext)

    def _send_headers(self, ext: bytes) -> None:
        if len(ext) > MAX_EXT:
            raise _metadata_too_large(len(ext))
        if self.outcome is not None:
            self.outcome.head(ext)
        self._send(encode_head(Kind.HEADERS, 0, self.id, (), ext))

    def send(self, message: bytes, what: str = "answer") -> None:
        """Send one whole message of the answer, as credit allows. One that is too large ends the call."""
        if self.cancelled:
            raise CancelledCallError
        if len(message) > self.pair.max_message_bytes:
            raise self._too_large(len(message), what)
        self._headers_sent = True
        if self.outcome is not None:
            self.outcome.add(message)
        rest = self._all_but_last(message)
        self._send(encode_head(Kind.MESSAGE, _WHOLE, self.id, payload_bytes=len(rest)), rest)

    def try_send(self, message: bytes) -> bool:
        """As `send`, without waiting: False, and nothing is sent, when there is no credit for all of it now."""
        if self.cancelled:
            raise CancelledCallError
        size = len(message)
        if size > self.pair.max_message_bytes or not self.pair.take_credit_now(self, size):
            return False
        self._headers_sent = True
        if self.outcome is not None:
            self.outcome.add(message)
        self._send(encode_head(Kind.MESSAGE, _WHOLE, self.id, payload_bytes=size), message)
        return True

    def finish(
        self,
        code: int,
        message: str = "",
        trailers: Metadata = (),
        answer: bytes | None = None,
        headers: Metadata = (),
    ) -> None:
        """End the call. Never raises for what the caller or the link did: then nobody waits for the answer."""
        if (
            not code
            and answer is not None
            and len(answer) <= _SHORT
            and self.credit is None
            and self.outcome is None
            and not (message or trailers or headers or self.finished)
            and len(answer) <= self.pair.max_message_bytes
        ):
            # The common case: one short answer, and nothing beside it.
            self.finished = True
            data = self.pair.data
            assert data is not None
            try:
                data.write(finished_head(self.id, len(answer)) + answer)
            except ConnectionLostError:
                self.pair.end()
            return
        info = None
        if message or trailers or (headers and not self._headers_sent):
            shown = headers if not self._headers_sent and self.pair.version >= VERSION_2 else ()
            info = messages.FinishInfo(
                message=cut(message, _MAX_MESSAGE), trailers=messages.entries(trailers), headers=messages.entries(shown)
            )
        self.end(code, info, answer)

    def fail(self, failure: Failure, answer: bytes | None = None) -> None:
        """End the call with a failure, and a message that says more."""
        self.end(int(failure.code), failure.info, answer)

    def end(self, code: int, info: Any, answer: bytes | None) -> None:
        """Send Finish, and before it what of the answer does not fit."""
        if self.finished:
            raise RuntimeError("the call has ended already")
        self.finished = True
        ext: bytes = b"" if info is None else info.SerializeToString()
        try:
            if answer is not None and len(answer) > self.pair.max_message_bytes:
                raise self._too_large(len(answer), "answer")
            if len(ext) > MAX_EXT:
                raise _metadata_too_large(len(ext))
        except FailureError as error:
            code, answer = int(error.failure.code), None
            info = error.failure.info
            ext = info.SerializeToString()
        self._record(code, ext, answer)
        try:
            self._finish(code, info, ext, answer)
        except CancelledCallError:
            # The link is gone, or the caller is, before its answer had credit.
            pass

    def _finish(self, code: int, info: Any, ext: bytes, answer: bytes | None) -> None:
        rest, flags = b"", 0
        if answer is not None:
            try:
                if info is not None and info.headers and len(answer) > _SHORT:
                    # A message in pieces comes before Finish, and the metadata before the message.
                    entries = messages.HeadersInfo(metadata=list(info.headers)).SerializeToString()
                    info.ClearField("headers")
                    ext = info.SerializeToString()
                    self._send(encode_head(Kind.HEADERS, 0, self.id, (), entries))
                rest, flags = self._all_but_last(answer), _WHOLE
            except CancelledCallError:
                if self.link_broken:
                    raise
                code, ext = int(Code.CANCELLED), Failure(Code.CANCELLED, "", _CANCELLED).info.SerializeToString()
        self._send(encode_head(Kind.FINISH, flags, self.id, (code, 0), ext, len(rest)), rest)

    def _record(self, code: int, ext: bytes, answer: bytes | None) -> None:
        outcome = self.outcome
        if outcome is None:
            return
        if self.cancelled and self.link_broken:
            # Nobody has seen all of it, and what the caller asked for was not cancelled by the caller.
            outcome.forget()
        if answer is not None:
            outcome.add(answer)
        outcome.end(code, ext)

    def replay(self, outcome: Outcome) -> None:
        """Answer as an earlier call with the same request id was answered."""
        if not outcome.complete or outcome.finish is None:
            text = "a call with this request id ran already, and its answer was not kept"
            self.fail(Failure(Code.ABORTED, "ALREADY_EXECUTED", text))
            return
        self.finished = True
        try:
            if outcome.headers is not None and self.pair.version >= VERSION_2:
                self._send_headers(outcome.headers)
            for message in outcome.messages[:-1]:
                rest = self._all_but_last(message)
                self._send(encode_head(Kind.MESSAGE, _WHOLE, self.id, payload_bytes=len(rest)), rest)
            self._finish(outcome.finish, None, outcome.ext, outcome.messages[-1] if outcome.messages else None)
        except CancelledCallError:
            if not self.link_broken:
                self.finished = False
                self.fail(Failure(Code.CANCELLED, "", _CANCELLED))

    def _all_but_last(self, message: bytes) -> bytes:
        """Send what does not fit into the last frame of a message; return the rest, for which there is credit."""
        granted = self._take(len(message))
        if granted == len(message):
            return message
        rest = memoryview(message)
        while granted < len(rest):
            self._send(encode_head(Kind.MESSAGE, FLAG_MESSAGE, self.id, payload_bytes=granted), bytes(rest[:granted]))
            rest = rest[granted:]
            granted = self._take(len(rest))
        return bytes(rest)

    def _take(self, wanted: int) -> int:
        granted = self.pair.take_credit(self, wanted, self._is_cancelled)
        if wanted and not granted:
            if self.pair.broken:
                self._lost()
            raise CancelledCallError
        return granted

    def _is_cancelled(self) -> bool:
        return self.cancelled

    def _send(self, head: bytes, payload: bytes = b"") -> None:
        data = self.pair.data
        assert data is not None
        try:
            data.send(head, payload)
        except ConnectionLostError:
            self._lost()

    # Cancels and coroutines.

    def cancel(self, cause: int) -> Callbacks:
        """Take note of a Cancel, under the pair's lock; return whom to tell, without that lock."""
        if cause == LINK_BROKEN:
            self.link_broken = True
            if not self._streams:
                # Its Accepted has been sent: it runs on, and only its result is dropped.
                return []
        self.cancelled = True
        callbacks, self._callbacks = self._callbacks or [], None
        if self._waiting is not None:
            callbacks.append(self._waiting)
        return callbacks

    def on_cancel(self, callback: Callable[[], None]) -> bool:
        """Call back on a cancel, in the control thread, so that it must not block. False: cancelled already."""
        with self.pair.lock:
            if self.cancelled:
                return False
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(callback)
            return True

    def watch(self, callback: Callable[[], None] | None) -> bool:
        """As `on_cancel`, for what the handler's thread waits for right now: each one takes the place of the last."""
        with self.pair.lock:
            self._waiting = callback
            return not self.cancelled

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the worker's one loop, started on first use."""
        return self.host.loop.get()

    def run_coroutine(self, awaitable: Awaitable[Any]) -> Any:
        """Run an awaitable on the loop, cancelled when the call is cancelled; return its result."""
        try:
            return self.host.loop.run(awaitable, self.watch)
        finally:
            self.watch(None)


_CANCELLED: Final = "the call was cancelled"


def _metadata_too_large(size: int) -> FailureError:
    text = f"the answer's metadata has {size} bytes, above {MAX_EXT}"
    return FailureError(Failure(Code.RESOURCE_EXHAUSTED, "METADATA_TOO_LARGE", text))
