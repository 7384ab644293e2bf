"""What a call can fail with: one class for each reason of the error domain `snakepit.dev`.

Every class is a `SnakepitError`. The module needs neither grpcio nor protobuf, so that code which only catches
these exceptions can import it anywhere. `RemoteError` lives in `snakepit.client.remote`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

# What is known about the call's execution; `SnakepitError.execution` is one of these.
NOT_STARTED: Final = "NOT_STARTED"  # no user code ran: the call can be repeated
MAYBE_EXECUTED: Final = "MAYBE_EXECUTED"  # user code may have run, wholly or in part
FAILED: Final = "FAILED"  # user code ran and raised


class SnakepitError(Exception):
    """A call that brought no answer. `str()` is the router's message."""

    # What `execution` is when the router did not say.
    default_execution: ClassVar[str] = MAYBE_EXECUTED
    default_reason: ClassVar[str] = ""

    message: str
    code: str  # the gRPC status code's name, such as "ABORTED"
    reason: str  # of the domain snakepit.dev, such as "SESSION_LOST"; empty when the router did not answer
    execution: str  # NOT_STARTED, MAYBE_EXECUTED or FAILED
    retryable: bool  # the same call may succeed later, and repeating it does no harm
    worker: str  # the worker that served or refused the call; empty when unknown
    session: str  # name of the session; empty for a call without one
    tool: str
    request_id: str
    details: Mapping[str, str]  # all that the router's ErrorInfo says
    retry_after: float | None  # seconds that the router asks to wait; None without a hint
    no_retry: bool  # the router says that the call must not be repeated

    def __init__(  # noqa: PLR0913  (one keyword an attribute)
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str | None = None,
        execution: str | None = None,
        worker: str = "",
        session: str = "",
        tool: str = "",
        request_id: str = "",
        details: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        no_retry: bool = False,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = self.default_reason if reason is None else reason
        self.execution = execution or self.default_execution
        self.worker = worker
        self.session = session
        self.tool = tool
        self.request_id = request_id
        self.details = dict(details or {})
        self.retry_after = retry_after
        self.no_retry = no_retry
        self.retryable = self._is_retryable() if retryable is None else retryable

    def _is_retryable(self) -> bool:
        return self.execution == NOT_STARTED and self.retry_after is not None and not self.no_retry

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by value: an exception must survive a process pool of the caller."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[SnakepitError], args: tuple[Any, ...], state: dict[str, Any]) -> SnakepitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class Refused(SnakepitError):
    """The call was refused before any user code ran."""

    default_execution = NOT_STARTED


class InvalidArguments(Refused, ValueError):
    """The arguments do not fit the tool. `violations` lists every bad field as (path, what is expected)."""

    default_reason = "ARGUMENT_INVALID"
    violations: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [f"{field}: {expected}" for field, expected in self.violations]
        if len(lines) == 1 and lines[0] in self.message:
            return self.message
        return "\n  ".join([self.message, *lines])


class ToolUnknown(Refused):
    """The adapter has no tool of this name; the message names the nearest ones."""

    default_reason = "TOOL_UNKNOWN"


class MethodUnknown(Refused):
    """The server does not know the gRPC method: what answers at the address is no Snakepit router, or an older one."""

    default_reason = "METHOD_UNKNOWN"


class WorkerBusy(Refused):
    """The session's worker is busy and the session is strict and fails fast, or a stream of the session is open."""

    default_reason = "WORKER_BUSY"

    @property
    def blocked_by(self) -> str:
        """Request id of the call that holds the worker."""
        return self.details.get("blocked_by", "")


class QueueFull(Refused):
    """The pool's queue is full."""

    default_reason = "QUEUE_FULL"


class QueueTimeout(Refused):
    """The call waited longer than the pool's queue allows."""

    default_reason = "QUEUE_TIMEOUT"


class DeadlineUnreachable(Refused):
    """The queue is so long that the call could not end before its deadline."""

    default_reason = "DEADLINE_UNREACHABLE"


class NotReady(Refused):
    """No worker of the pool is ready yet."""

    default_reason = "NO_READY_WORKER"


class Recovering(NotReady):
    """The router has just started again and does not know all sessions yet."""

    default_reason = "RECOVERING"


class Draining(Refused):
    """The pool, or the worker, ends and takes no new calls."""

    default_reason = "DRAINING"


class MessageTooLarge(Refused):
    """A message is larger than the pool's `calls.maxMessageBytes`."""

    default_reason = "MESSAGE_TOO_LARGE"


class RequestQuarantined(Refused):
    """This request killed workers before and is refused for a while."""

    default_reason = "REQUEST_QUARANTINED"


class WorkerDied(SnakepitError):
    """The worker's process ended, or the link to it broke, before the call was answered."""

    default_reason = "WORKER_DIED"


class AlreadyExecuted(SnakepitError):
    """A call with this request id ran before, and its result is no longer kept."""

    default_reason = "ALREADY_EXECUTED"


class CallTimeout(SnakepitError):
    """The call ran longer than the pool's `calls.timeout`, and its worker was ended."""

    default_reason = "CALL_TIMEOUT"


class SessionError(Refused):
    """The session cannot take this call."""


class SessionLost(SessionError):
    """The session's worker is gone, and the session's state with it."""

    default_reason = "SESSION_LOST"

    @property
    def cause(self) -> str:
        """Why it was lost, such as WORKER_GONE."""
        return self.details.get("cause", "")

    @property
    def epoch(self) -> int | None:
        """Number of the life that was lost."""
        text = self.details.get("epoch", "")
        return int(text) if text.isdecimal() else None


class SessionExpired(SessionError):
    """The session's life has ended: it was idle for too long, or somebody closed it."""

    default_reason = "SESSION_EXPIRED"


class SessionUnknown(SessionError):
    """No session of this name lives, and the call was not allowed to create one."""

    default_reason = "SESSION_UNKNOWN"


class Closed(Refused):
    """The client or the session was closed by this program; make a new one."""

    default_reason = "CLOSED"


class DeadlineExceeded(SnakepitError, TimeoutError):
    """The `timeout` of this client passed before an answer came."""

    default_reason = "DEADLINE_PASSED"


class TransportError(SnakepitError):
    """The link to the router broke. `execution` is NOT_STARTED only when the call was never sent."""


_NAMED: Final[tuple[type[SnakepitError], ...]] = (
    InvalidArguments,
    ToolUnknown,
    MethodUnknown,
    WorkerBusy,
    QueueFull,
    QueueTimeout,
    DeadlineUnreachable,
    NotReady,
    Recovering,
    Draining,
    MessageTooLarge,
    RequestQuarantined,
    WorkerDied,
    AlreadyExecuted,
    CallTimeout,
    DeadlineExceeded,
    SessionLost,
    SessionExpired,
    SessionUnknown,
)
# Reason → class; ADAPTER_EXCEPTION is a RemoteError, and a reason that is not known here a plain SnakepitError.
BY_REASON: Final[Mapping[str, type[SnakepitError]]] = {cls.default_reason: cls for cls in _NAMED}
