"""What a worker does with the frames of DATA, in whatever thread: keeps sessions, refuses calls or runs them."""

from __future__ import annotations

import inspect
import threading
import time
from typing import Final

from snakepit.bridge import messages
from snakepit.bridge.calls import Request, Verdict
from snakepit.bridge.protocol import (
    FLAGS_WHOLE,
    CloseStatus,
    Frame,
    Kind,
    OpenStatus,
    Outcome,
    PlainCall,
    ProtocolError,
    accepted,
    encode_head,
)
from snakepit.bridge.sessions import Outcomes, SessionTable
from snakepit.bridge.socket import ConnectionLostError, parse
from snakepit.context import Context, Session
from snakepit.errors import Code
from snakepit.worker import failure
from snakepit.worker.call import Call
from snakepit.worker.execution import Tool
from snakepit.worker.failure import Failure, FailureError
from snakepit.worker.host import Host
from snakepit.worker.link import Pair
from snakepit.worker.report import Changed, Page, Reporter
from snakepit.worker.tools import Adapter
from snakepit.worker.wire import CancelledCallError, Method

_FROM_ROUTER: Final = frozenset(
    (Kind.CALL, Kind.MESSAGE, Kind.SESSION_OPEN, Kind.SESSION_CLOSE, Kind.GOODBYE, Kind.PING, Kind.PONG)
)
_KINDS: Final = frozenset(int(kind) for kind in Kind)


class Life:
    """What is held of a session: what handlers see, and the outcomes of its calls."""

    __slots__ = ("outcomes", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.outcomes = Outcomes()


class Service:
    """Serves one adapter instance. Several threads may use it, one for each slot of the page."""

    def __init__(self, adapter: Adapter, host: Host, reporter: Reporter, page: Page) -> None:
        self._adapter = adapter
        self._host = host
        self._reporter = reporter
        self._page = page
        # By the number that Call frames use: the handler, and whether it must hear that the link broke.
        self._handlers: list[tuple[Tool | Method, bool]] = [(tool, tool.streams) for tool in adapter.tools]
        self._handlers += [(method, method.client_streaming or method.server_streaming) for method in adapter.methods]
        self._sessions: SessionTable[Life] = SessionTable()
        # Around what the table does in several steps.
        self._lock = threading.Lock()

    def setup(self) -> None:
        """Run the adapter's setup."""
        self.run_hook("setup", Context(self._host.worker))

    def teardown(self) -> None:
        """End every session, then run the adapter's teardown; nothing that they raise stops the end."""
        for epoch in self._sessions.epochs():
            self._end_session(epoch, 0)
        try:
            self.run_hook("teardown")
        except BaseException as error:
            failure.log_exception("teardown raised", error)
        self._host.loop.close()

    def run_hook(self, name: str, *arguments: object) -> None:
        """Run a hook, which may be async, and may leave out the ctx it does not need."""
        hook = self._adapter.hook(name)
        if hook is None:
            return
        if arguments and not inspect.signature(hook).parameters:
            arguments = ()
        result = hook(*arguments)
        if hasattr(result, "__await__"):
            self._host.loop.run(result)

    # Calls.

    def call(self, pair: Pair, slot: int, plain: PlainCall, received_at: int, request: Request | None = None) -> None:
        """Refuse a call or run it. `request` has taken the first piece already when the call is not whole.

        This is the hot path: what a call without session, pieces and troubles does not need is not done for it. The
        handler's thread has marked the call, or returned from the write of Accepted, before anything looks into the
        payload.
        """
        flags, id, number, epoch, timeout_us, ext, payload = plain
        handler, streams = self._handlers[number] if number < len(self._handlers) else (None, False)
        call = Call(self._host, pair, id, ext, payload, streams)
        marks = pair.marks
        if flags & FLAGS_WHOLE != FLAGS_WHOLE:
            call.payload = marks = None
            call.request = request or first_piece(pair, flags, payload)
        now = time.monotonic_ns()
        if timeout_us:
            call.deadline = (received_at + timeout_us * 1000) / 1e9
        life = self._sessions.find(epoch) if epoch else None
        late = timeout_us and now >= received_at + timeout_us * 1000
        refused = handler is None or late or (epoch and life is None)
        with pair.lock:
            if pair.broken:
                return
            verdict = pair.calls.begin(id, call)
            if marks is not None and not refused and verdict is Verdict.BEGUN:
                # Within the lock: nothing may begin once the pair is broken, which the router reads off its end.
                marks[slot] = id
        if verdict is not Verdict.BEGUN:
            if verdict is Verdict.CANCELLED:
                self._refuse(pair, id, Outcome.REFUSED_CANCELLED, Code.CANCELLED)
            return
        try:
            if refused or handler is None:
                self._refuse_call(pair, id, handler is not None, epoch, life)
                return
            if marks is None:
                _write(pair, accepted(id))
            words = self._page.words
            words[2 * slot + 1] = epoch
            words[2 * slot] = now
            try:
                if life is not None and not self._join(call, life):
                    return
                self._run(handler, call)
            finally:
                words[2 * slot] = 0
        finally:
            pair.calls.end(id)
            if call.fed:
                call.finished = True
                self._host.feed.leave(call)

    def _run(self, handler: Tool | Method, call: Call) -> None:
        """Run the handler. Every path ends in exactly one Finish, or in the loss of the link."""
        try:
            # A tool takes the concrete call; a method takes what the Protocol offers.
            handler.run(call)
        except (CancelledCallError, FailureError) as error:
            if not call.finished:
                cancelled = Failure(Code.CANCELLED, "", "the call was cancelled")
                call.fail(error.failure if isinstance(error, FailureError) else cancelled)
            return
        except BaseException as error:
            if call.finished:
                failure.log_exception("a handler raised after its call had ended", error)
            elif isinstance(handler, Tool):
                handler.failed(call, error)
            else:
                call.fail(failure.of_exception(error, None, call.cancelled))
            return
        if not call.finished:
            call.fail(Failure(Code.INTERNAL, "", "the handler ended without an answer"))

    def _join(self, call: Call, life: Life) -> bool:
        """Give a call of a session its session; False when an earlier call's outcome has answered it."""
        call.session = life.session
        info = call.info
        if info is None or not info.caller_request_id:
            return True
        # The calls of one session run one at a time: an earlier one with this id has ended.
        outcome, new = life.outcomes.begin(info.request_id)
        if not new:
            call.replay(outcome)
            return False
        call.outcome = outcome
        return True

    def _refuse_call(self, pair: Pair, id: int, known: bool, epoch: int, life: Life | None) -> None:
        why = self._sessions.failure(epoch) if epoch and life is None else None
        if not known:
            self._refuse(pair, id, Outcome.REFUSED_TOOL, Code.NOT_FOUND)
        elif why is not None:
            self._refuse(pair, id, Outcome.REFUSED_SESSION_START, Code.UNKNOWN, why)
        elif epoch and life is None:
            self._refuse(pair, id, Outcome.REFUSED_SESSION, Code.FAILED_PRECONDITION)
        else:
            self._refuse(pair, id, Outcome.REFUSED_DEADLINE, Code.DEADLINE_EXCEEDED)

    def _refuse(self, pair: Pair, id: int, outcome: Outcome, code: Code, ext: bytes = b"") -> None:
        _write(pair, encode_head(Kind.FINISH, 0, id, (int(code), int(outcome)), ext))

    # Sessions, and everything else.

    def other(self, pair: Pair, slot: int, frame: Frame) -> None:
        """Obey a frame that is no Call."""
        if frame.kind == Kind.SESSION_OPEN:
            self._open(pair, slot, frame)
        elif frame.kind == Kind.SESSION_CLOSE:
            epoch = frame.fixed[0]
            status, end = self._end_session(epoch, slot)
            _write(pair, encode_head(Kind.SESSION_CLOSED, 0, 0, (epoch, status), end))
        elif frame.kind == Kind.GOODBYE:
            raise ConnectionLostError("the router said goodbye")
        elif frame.kind in _KINDS and frame.kind not in _FROM_ROUTER:
            raise ProtocolError("wrong_direction", f"{frame!r} does not come from a router on DATA")
        # The rest is a piece of a call that has ended, or of a kind that this version does not know.

    def knows(self, epoch: int) -> bool:
        """Whether a life is held, or could not begin."""
        return self._sessions.find(epoch) is not None or self._sessions.failure(epoch) is not None

    def _open(self, pair: Pair, slot: int, frame: Frame) -> None:
        epoch = frame.fixed[0]
        name = session_name(frame)
        with self._lock:
            begun = self._sessions.begin(name, epoch)
        if not begun:
            _write(pair, encode_head(Kind.SESSION_OPENED, 0, 0, (epoch, OpenStatus.BELOW_FLOOR)))
            return
        session = Session(name, epoch)
        self._page.begin(slot, time.monotonic_ns(), epoch)
        try:
            self.run_hook("session_start", Context(self._host.worker, session))
        except BaseException as error:
            failure.log_exception("session_start raised", error)
            why = failure.of_exception(error).info.SerializeToString()
            with self._lock:
                self._sessions.fail(epoch, why)
            _write(pair, encode_head(Kind.SESSION_OPENED, 0, 0, (epoch, OpenStatus.START_RAISED), _session_end(error)))
            return
        finally:
            self._page.end(slot)
        with self._lock:
            self._sessions.hold(epoch, Life(session))
        # The supervisor's mirror first: what a router was told must be found in it.
        self._reporter.say(Changed(name, epoch, closed=False))
        _write(pair, encode_head(Kind.SESSION_OPENED, 0, 0, (epoch, OpenStatus.OPEN)))

    def _end_session(self, epoch: int, slot: int) -> tuple[CloseStatus, bytes]:
        with self._lock:
            life = self._sessions.drop(epoch)
        if life is None:
            return CloseStatus.NOT_HELD, b""
        status, end = CloseStatus.ENDED, b""
        self._page.begin(slot, time.monotonic_ns(), epoch)
        try:
            self.run_hook("session_end", Context(self._host.worker, life.session))
        except BaseException as error:
            failure.log_exception("session_end raised", error)
            status, end = CloseStatus.END_RAISED, _session_end(error)
        finally:
            self._page.end(slot)
        self._reporter.say(Changed(life.session.name, epoch, closed=True))
        return status, end


def first_piece(pair: Pair, flags: int, payload: bytes) -> Request:
    """Return the request of a Call that is not whole, with the piece that came with it."""
    request = Request(pair.window, pair.max_message_bytes)
    request.add(flags, payload)
    return request


def session_name(frame: Frame) -> str:
    """Return the name in a SessionOpen."""
    name: str = parse(messages.SessionInfo, frame.ext).name
    return name


def _write(pair: Pair, frame: bytes) -> None:
    data = pair.data
    assert data is not None
    data.write(frame)


def _session_end(error: BaseException) -> bytes:
    end: bytes = messages.SessionEnd(
        error_type=failure.cut(failure.type_name(type(error)), 128),
        error_message=failure.cut(failure.text_of(error), 200),
        traceback=failure.formatted(error, 2 << 10),
    ).SerializeToString()
    return end
