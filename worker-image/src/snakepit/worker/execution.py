"""One call from its Call frame to its Finish: decode, check, run the handler, answer."""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from snakepit import messages, values
from snakepit.adapter import Progress
from snakepit.bridge.calls import Request
from snakepit.bridge.protocol import (
    FLAG_END_MESSAGE,
    FLAG_MESSAGE,
    FLAGS_WHOLE,
    Frame,
    Kind,
    ProtocolError,
    encode_head,
    finished_head,
)
from snakepit.bridge.socket import Connection, ConnectionLostError
from snakepit.context import Context
from snakepit.errors import Code
from snakepit.worker.failure import Failure, of_exception
from snakepit.worker.link import LINK_BROKEN, Pair
from snakepit.worker.tools import Tool

_POLL_MS: Final = 50
_WHOLE: Final = FLAG_MESSAGE | FLAG_END_MESSAGE
_DONE: Final = (0, 0)
_UNSET: Final = object()


class FailureError(Exception):
    """Ends a call with a failure that is not the adapter's exception."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.info.message)
        self.failure = failure


class CancelledCallError(Exception):
    """The call was cancelled, and nobody waits for more of its answer."""


class Execution:
    """Runs one accepted call. Every path ends in exactly one Finish, or in the loss of the link."""

    __slots__ = ("_ctx", "_data", "_id", "_pair", "_sequence", "_streaming", "_task", "_tool")

    def __init__(self, pair: Pair, data: Connection, frame: Frame, tool: Tool, ctx: Context, streaming: bool) -> None:
        self._pair = pair
        self._data = data
        self._id = frame.id
        self._tool = tool
        self._ctx = ctx
        self._streaming = streaming
        self._sequence = 0
        self._task: asyncio.Task[Any] | None = None

    def cancel(self, cause: int) -> None:
        """Take note of a Cancel ; called by the control thread, under the pair's lock."""
        if cause == LINK_BROKEN and not self._tool.streams:
            # Its Accepted has been sent: it runs on, and only its result is dropped.
            return
        self._ctx._cancelled = True
        task = self._task
        if task is not None:
            try:
                task.get_loop().call_soon_threadsafe(task.cancel)
            except RuntimeError:
                # The loop was closed: the task has ended.
                pass

    def run(self, frame: Frame, later: deque[Frame], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """Run the call and send its Finish. Frames that belong to others go to `later`."""
        try:
            self._pair.run(self)
            payload = frame.payload
            if frame.flags & FLAGS_WHOLE != FLAGS_WHOLE:
                payload = self._rest_of_request(frame, later)
            answer = self._call(payload, loop)
        except (ConnectionLostError, ProtocolError):
            raise
        except CancelledCallError:
            self._fail(Failure(Code.CANCELLED, "", "the call was cancelled"))
        except FailureError as error:
            self._fail(error.failure)
        except BaseException as error:
            self._fail(of_exception(error, self._tool.options, self._ctx.cancelled))
        else:
            self._finish(answer)

    def _call(self, payload: bytes, loop: Callable[[], asyncio.AbstractEventLoop]) -> bytes:
        """Run the handler; return the message that goes with Finish, empty for a stream."""
        tool = self._tool
        if tool.streams and not self._streaming:
            text = f"{tool.name} yields a stream: call it with ExecuteStream"
            violation = {"field": "tool", "description": text}
            raise FailureError(Failure(Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", text, violations=[violation]))
        try:
            request = messages.ExecuteRequest.FromString(payload)
        except Exception:
            text = "the request is no ExecuteRequest, or is nested too deep"
            raise FailureError(Failure(Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", text)) from None
        arguments = tool.bind(request)
        if tool.context_name is not None:
            arguments[tool.context_name] = self._ctx
        result = tool.function(**arguments)
        if hasattr(result, "__await__"):
            result = self._wait_for(result, loop())
        if tool.streams:
            self._stream(result, loop)
            return b""
        if self._streaming:
            return self._stream_message(result)
        response = messages.ExecuteResponse()
        values.encode_into(result, response.result, "result")
        answer: bytes = response.SerializeToString()
        if len(answer) > self._pair.max_message_bytes:
            self._refuse_size(len(answer), "answer")
        return answer

    def _wait_for(self, awaitable: Any, loop: asyncio.AbstractEventLoop) -> Any:
        """Run an awaitable in the worker's loop so that a Cancel reaches it at once."""

        async def run() -> Any:
            return await awaitable

        task = loop.create_task(run())
        self._task = task
        if self._ctx.cancelled:
            task.cancel()
        try:
            return loop.run_until_complete(task)
        finally:
            self._task = None

    def _stream(self, result: Any, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """Send what a generator yields, and close it when the call is cancelled or the link breaks."""
        if hasattr(result, "__anext__"):
            running = loop()
            following = result.__anext__

            def next_item() -> Any:
                try:
                    return self._wait_for(following(), running)
                except StopAsyncIteration:
                    return _UNSET

            def close() -> None:
                if hasattr(result, "aclose"):
                    self._ctx_free_wait(result.aclose(), running)
        else:
            iterator = iter(result)

            def next_item() -> Any:
                return next(iterator, _UNSET)

            def close() -> None:
                if hasattr(iterator, "close"):
                    iterator.close()

        try:
            while not self._ctx.cancelled:
                item = next_item()
                if item is _UNSET:
                    return
                if self._ctx.cancelled:
                    break
                self._send_pieces(self._stream_message(item))
            raise CancelledCallError
        finally:
            close()

    def _ctx_free_wait(self, awaitable: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a clean-up that a Cancel must not interrupt."""

        async def run() -> None:
            await awaitable

        loop.run_until_complete(run())

    def _stream_message(self, item: Any) -> bytes:
        self._sequence += 1
        message = messages.ExecuteStreamResponse(sequence=self._sequence)
        if isinstance(item, Progress):
            message.progress.fraction = item.fraction
            message.progress.message = item.message
        else:
            values.encode_into(item, message.value, f"value {self._sequence}")
        encoded: bytes = message.SerializeToString()
        if len(encoded) > self._pair.max_message_bytes:
            self._refuse_size(len(encoded), f"value {self._sequence}")
        return encoded

    def _refuse_size(self, size: int, what: str) -> None:
        limit = self._pair.max_message_bytes
        text = f"the {what} has {size} bytes, above calls.maxMessageBytes {limit}"
        info = {"limit": str(limit), "size": str(size)}
        raise FailureError(Failure(Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", text, info=info))

    def _send_pieces(self, message: bytes) -> None:
        """Send a whole message in Message frames, as credit allows."""
        rest = memoryview(message)
        while True:
            size = self._take(len(rest))
            last = size == len(rest)
            flags = _WHOLE if last else FLAG_MESSAGE
            self._data.send(encode_head(Kind.MESSAGE, flags, self._id, payload_bytes=size), bytes(rest[:size]))
            if last:
                return
            rest = rest[size:]

    def _take(self, wanted: int) -> int:
        granted = self._pair.take_credit(wanted, self._is_cancelled)
        if wanted and not granted:
            raise CancelledCallError
        return granted

    def _is_cancelled(self) -> bool:
        return self._ctx._cancelled

    def _finish(self, message: bytes) -> None:
        """Send Finish with code OK, and the message before and with it."""
        if not message and self._tool.streams:
            self._data.send(encode_head(Kind.FINISH, 0, self._id, _DONE))
            return
        try:
            rest = self._send_all_but_last(message)
        except CancelledCallError:
            self._fail(Failure(Code.CANCELLED, "", "the call was cancelled"))
            return
        self._data.send(finished_head(self._id, len(rest)), rest)

    def _send_all_but_last(self, message: bytes) -> bytes:
        granted = self._take(len(message))
        while granted < len(message):
            self._data.send(encode_head(Kind.MESSAGE, FLAG_MESSAGE, self._id, payload_bytes=granted), message[:granted])
            message = message[granted:]
            granted = self._take(len(message))
        return message

    def _fail(self, failure: Failure) -> None:
        message = b""
        if failure.remote is not None:
            kind = messages.ExecuteStreamResponse if self._streaming else messages.ExecuteResponse
            message = kind(error=failure.remote).SerializeToString()
        ext: bytes = failure.info.SerializeToString()
        flags = 0
        if message:
            try:
                message = self._send_all_but_last(message)
                flags = _WHOLE
            except CancelledCallError:
                message = b""
        head = encode_head(Kind.FINISH, flags, self._id, (int(failure.code), 0), ext, len(message))
        self._data.send(head, message)

    def _rest_of_request(self, first: Frame, later: deque[Frame]) -> bytes:
        """Read the pieces that follow the Call; wake up for a Cancel."""
        request = Request(self._pair.window, self._pair.max_message_bytes)
        frame: Frame | None = first
        while True:
            if frame is not None and frame.id == self._id and frame.kind in (Kind.CALL, Kind.MESSAGE):
                credit = request.add(frame.flags, frame.payload)
                if request.too_large:
                    self._refuse_size(request.size, "request")
                if request.complete:
                    return request.message()
                if credit:
                    self._pair.give_credit(self._id, credit)
            elif frame is not None:
                later.append(frame)
            frame = self._data.buffered_frame()
            if frame is None:
                self._receive_or_cancel()

    def _receive_or_cancel(self) -> None:
        poll = select.poll()
        poll.register(self._data.fileno(), select.POLLIN)
        # A Cancel arrives on the other connection: look for it between short waits, this is a rare path.
        while not poll.poll(_POLL_MS):
            if self._ctx.cancelled:
                raise CancelledCallError
        self._data.receive()


def deadline_of(timeout_us: int, received: float) -> float | None:
    """Return a call's deadline in terms of time.monotonic(), or None."""
    return received + timeout_us / 1e6 if timeout_us else None


def passed(deadline: float | None) -> bool:
    """Whether a deadline is over."""
    return deadline is not None and deadline <= time.monotonic()
