"""Exceptions that choose the gRPC status code of a call when an adapter raises them.

Every other exception of an adapter is reported as UNKNOWN, with its type, message and traceback.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final


class Code(enum.IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AdapterError(Exception):
    """Base of the exceptions that choose a status code; raise one of the classes below."""

    code: ClassVar[Code] = Code.UNKNOWN


class Cancelled(AdapterError):
    """The call was given up because its caller did."""

    code = Code.CANCELLED


class Interrupted(BaseException):
    """Raised by the runtime within a handler of `@tool(interruptible=True)` whose call was given up.

    Not an Exception, as asyncio.CancelledError is none: code that catches every error must not catch this one.
    """


class InvalidArgument(AdapterError):
    """An argument is wrong whatever the state of the system."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(AdapterError):
    """The handler ran out of time."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(AdapterError):
    """What was asked for does not exist."""

    code = Code.NOT_FOUND


class AlreadyExists(AdapterError):
    """What should be made exists."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(AdapterError):
    """The caller may not do this."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(AdapterError):
    """A quota or resource is used up."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(AdapterError):
    """The system is not in the state that this needs."""

    code = Code.FAILED_PRECONDITION


class Aborted(AdapterError):
    """A conflict ended this; the caller may begin again."""

    code = Code.ABORTED


class OutOfRange(AdapterError):
    """Past the valid range."""

    code = Code.OUT_OF_RANGE


class Unimplemented(AdapterError):
    """Not supported."""

    code = Code.UNIMPLEMENTED


class Internal(AdapterError):
    """An invariant is broken."""

    code = Code.INTERNAL


class Unavailable(AdapterError):
    """Temporarily not possible; trying again may help."""

    code = Code.UNAVAILABLE


class DataLoss(AdapterError):
    """Data is lost or corrupted for good."""

    code = Code.DATA_LOSS


class Unauthenticated(AdapterError):
    """The caller has no valid credentials for this."""

    code = Code.UNAUTHENTICATED


# The codes that @tool(errors={…}) may name: every code of a failure.
CODES: Final = {code.name: code for code in Code if code is not Code.OK}
