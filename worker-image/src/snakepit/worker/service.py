"""The worker's loop in the handler's thread: reads DATA, keeps sessions, refuses or runs calls."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from snakepit.bridge import messages
from snakepit.bridge.protocol import (
    CloseStatus,
    Frame,
    GoodbyeReason,
    Kind,
    OpenStatus,
    Outcome,
    ProtocolError,
    accepted,
    encode_head,
)
from snakepit.bridge.sessions import SessionTable
from snakepit.bridge.socket import Connection, ConnectionLostError, parse
from snakepit.context import Context, Session, Worker
from snakepit.errors import Code
from snakepit.worker import failure
from snakepit.worker.execution import Execution, deadline_of, passed
from snakepit.worker.link import Link, Pair
from snakepit.worker.report import Changed, Page, Reporter
from snakepit.worker.tools import Adapter

_NO_METADATA: Final[Mapping[str, str | bytes]] = {}
_FROM_ROUTER: Final = frozenset(
    (Kind.CALL, Kind.MESSAGE, Kind.SESSION_OPEN, Kind.SESSION_CLOSE, Kind.GOODBYE, Kind.PING, Kind.PONG)
)


_CALL: Final = int(Kind.CALL)


class StopServing(BaseException):
    """Raised in the idle handler's thread when the process shall end."""


class Service:
    """Serves one adapter instance over one pair of connections after the other."""

    def __init__(self, adapter: Adapter, worker: Worker, reporter: Reporter, page: Page) -> None:
        self._adapter = adapter
        self._tools = adapter.tools
        self._worker = worker
        self._reporter = reporter
        self._page = page
        self._sessions: SessionTable[Session] = SessionTable()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._later: deque[Frame] = deque()
        self._stopping = False
        self._idle = False

    def setup(self) -> None:
        """Run the adapter's setup."""
        self.run_hook("setup", Context(self._worker))

    def stop(self) -> None:
        """End the loop as soon as no handler runs; called by the signal handler, in the same thread."""
        self._stopping = True
        if self._idle:
            self._idle = False
            raise StopServing

    def serve(self, link: Link) -> None:
        """Serve until stopped."""
        try:
            while True:
                self._wait_idle()
                pair = link.next_pair()
                self._idle = False
                self._serve_pair(pair)
        except StopServing:
            self._idle = False

    def teardown(self) -> None:
        """End every session, then run the adapter's teardown; nothing that they raise stops the end."""
        for epoch in self._sessions.epochs():
            self._end_session(epoch)
        try:
            self.run_hook("teardown")
        except BaseException as error:
            failure.log_exception("teardown raised", error)
        if self._loop is not None:
            self._loop.close()

    def run_hook(self, name: str, *arguments: object) -> None:
        """Run a hook, which may be async, and may leave out the ctx it does not need."""
        hook = self._adapter.hook(name)
        if hook is None:
            return
        if arguments and not inspect.signature(hook).parameters:
            arguments = ()
        result = hook(*arguments)
        if hasattr(result, "__await__"):
            self._event_loop().run_until_complete(result)

    def _wait_idle(self) -> None:
        """From here on a stop interrupts. The order matters: first the flag, then the look at what came before."""
        self._idle = True
        if self._stopping:
            raise StopServing

    def _serve_pair(self, pair: Pair) -> None:
        data = pair.data
        assert data is not None
        later = self._later
        later.clear()
        try:
            while True:
                # From here on a stop interrupts; see _wait_idle.
                self._idle = True
                if self._stopping:
                    raise StopServing
                frame = later.popleft() if later else data.read_frame()
                self._idle = False
                if frame.kind == _CALL:
                    self._call(pair, data, frame)
                else:
                    self._other(data, frame)
        except ConnectionLostError:
            pass
        except ProtocolError as error:
            failure.log_exception("the router broke the rules on DATA", error)
            data.goodbye(GoodbyeReason.PROTOCOL_ERROR, str(error))
        finally:
            self._idle = False
            if not self._stopping:
                pair.end()
                data.close()

    def _other(self, data: Connection, frame: Frame) -> None:
        if frame.kind == Kind.SESSION_OPEN:
            self._open(data, frame)
        elif frame.kind == Kind.SESSION_CLOSE:
            epoch = frame.fixed[0]
            status, end = self._end_session(epoch)
            self._answer(data, Kind.SESSION_CLOSED, (epoch, status), end)
        elif frame.kind == Kind.GOODBYE:
            raise ConnectionLostError("the router said goodbye")
        elif frame.kind in list(Kind) and frame.kind not in _FROM_ROUTER:
            raise ProtocolError("wrong_direction", f"{frame!r} does not come from a router on DATA")
        # The rest is a piece of a call that has ended, or of a kind that this version does not know.

    def _answer(self, data: Connection, kind: Kind, fixed: tuple[int, int], end: bytes) -> None:
        data.send(encode_head(kind, 0, 0, fixed, end))

    def _open(self, data: Connection, frame: Frame) -> None:
        epoch = frame.fixed[0]
        name = parse(messages.SessionInfo, frame.ext).name
        if not self._sessions.begin(name, epoch):
            self._answer(data, Kind.SESSION_OPENED, (epoch, OpenStatus.BELOW_FLOOR), b"")
            return
        session = Session(name, epoch)
        self._page.begin(time.monotonic_ns(), epoch)
        try:
            self.run_hook("session_start", Context(self._worker, session))
        except BaseException as error:
            failure.log_exception("session_start raised", error)
            self._sessions.fail(epoch, failure.of_exception(error).info.SerializeToString())
            self._answer(data, Kind.SESSION_OPENED, (epoch, OpenStatus.START_RAISED), _session_end(error))
            return
        finally:
            self._page.end()
        self._sessions.hold(epoch, session)
        # The supervisor's mirror first: what a router was told must be found in it.
        self._reporter.say(Changed(name, epoch, closed=False))
        self._answer(data, Kind.SESSION_OPENED, (epoch, OpenStatus.OPEN), b"")

    def _end_session(self, epoch: int) -> tuple[CloseStatus, bytes]:
        session = self._sessions.drop(epoch)
        if session is None:
            return CloseStatus.NOT_HELD, b""
        status, end = CloseStatus.ENDED, b""
        self._page.begin(time.monotonic_ns(), epoch)
        try:
            self.run_hook("session_end", Context(self._worker, session))
        except BaseException as error:
            failure.log_exception("session_end raised", error)
            status, end = CloseStatus.END_RAISED, _session_end(error)
        finally:
            self._page.end()
        self._reporter.say(Changed(session.name, epoch, closed=True))
        return status, end

    def _call(self, pair: Pair, data: Connection, frame: Frame) -> None:
        index, epoch, timeout_us = frame.fixed
        deadline = deadline_of(timeout_us, data.received_at) if timeout_us else None
        session = None
        refusal: tuple[Outcome, Code, bytes] | None = None
        if not pair.begin(frame.id):
            refusal = (Outcome.REFUSED_CANCELLED, Code.CANCELLED, b"")
        elif index >= len(self._tools):
            refusal = (Outcome.REFUSED_TOOL, Code.NOT_FOUND, b"")
        elif epoch:
            session = self._sessions.find(epoch)
            why = None if session is not None else self._sessions.failure(epoch)
            if why is not None:
                refusal = (Outcome.REFUSED_SESSION_START, Code.UNKNOWN, why)
            elif session is None:
                refusal = (Outcome.REFUSED_SESSION, Code.FAILED_PRECONDITION, b"")
        if refusal is None and deadline is not None and passed(deadline):
            refusal = (Outcome.REFUSED_DEADLINE, Code.DEADLINE_EXCEEDED, b"")
        if refusal is not None:
            outcome, code, ext = refusal
            if outcome != Outcome.REFUSED_CANCELLED:
                pair.finish(frame.id)
            data.send(encode_head(Kind.FINISH, 0, frame.id, (int(code), int(outcome)), ext))
            return
        ctx, streaming = self._context(frame, session, deadline)
        data.send(accepted(frame.id))
        execution = Execution(pair, data, frame, self._tools[index], ctx, streaming)
        self._page.begin(time.monotonic_ns(), epoch)
        try:
            execution.run(frame, self._later, self._event_loop)
        finally:
            self._page.end()
            pair.finish(frame.id)

    def _context(self, frame: Frame, session: Session | None, deadline: float | None) -> tuple[Context, bool]:
        """Return the call's context, and whether it was made by ExecuteStream."""
        if not frame.ext:
            return Context(self._worker, session, deadline=deadline), False
        info = parse(messages.CallInfo, frame.ext)
        metadata, streaming = _NO_METADATA, False
        if info.metadata:
            metadata, streaming = _metadata(info.metadata)
        return Context(self._worker, session, info.request_id, metadata, info.traceparent, deadline), streaming

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop


def _metadata(entries: Any) -> tuple[Mapping[str, str | bytes], bool]:
    metadata: dict[str, str | bytes] = {}
    streaming = False
    for entry in entries:
        if entry.key == ":method":
            streaming = entry.value == b"ExecuteStream"
        elif entry.key.endswith("-bin"):
            metadata[entry.key] = entry.value
        else:
            metadata[entry.key] = entry.value.decode("utf-8", "replace")
    return metadata, streaming


def _session_end(error: BaseException) -> bytes:
    end: bytes = messages.SessionEnd(
        error_type=failure.cut(failure.type_name(type(error)), 128),
        error_message=failure.cut(failure.text_of(error), 200),
        traceback=failure.formatted(error, 2 << 10),
    ).SerializeToString()
    return end
