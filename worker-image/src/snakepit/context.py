"""What a handler is told about its call: the `ctx` argument."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from snakepit import errors

_EMPTY: Final[Mapping[str, str | bytes]] = {}


class SessionState(dict[str, Any]):
    """A session's state: a dictionary whose keys are attributes too. It lives exactly as long as the session."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the session's state has no {name!r}; set it in session_start") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None


class Session:
    """One life of a session, as its worker sees it."""

    __slots__ = ("epoch", "name", "state")

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        # Names this life; a later life of the same name has a higher one.
        self.epoch = epoch
        self.state = SessionState()


class Worker:
    """The process that runs the handler."""

    __slots__ = ("name", "pod", "slot")

    def __init__(self, pod: str, slot: int) -> None:
        self.pod = pod
        self.slot = slot
        self.name = f"{pod}/{slot}"


class Context:
    """The call a handler runs for. `setup` and the session hooks get one too, without a call behind it."""

    __slots__ = ("_cancelled", "_deadline", "metadata", "request_id", "session", "traceparent", "worker")

    def __init__(
        self,
        worker: Worker,
        session: Session | None = None,
        request_id: str = "",
        metadata: Mapping[str, str | bytes] = _EMPTY,
        traceparent: str = "",
        deadline: float | None = None,
    ) -> None:
        self.worker = worker
        # None for a call without a session.
        self.session = session
        self.request_id = request_id
        self.metadata = metadata
        self.traceparent = traceparent
        # In terms of time.monotonic().
        self._deadline = deadline
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave the call up, or its deadline passed. Long handlers ask now and then."""
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """Raise snakepit.errors.Cancelled when the call was given up."""
        if self.cancelled:
            raise errors.Cancelled("the caller gave this call up")

    def time_remaining(self) -> float | None:
        """Return the seconds until the call's deadline (never below 0), or None when it has none."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())
