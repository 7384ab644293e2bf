"""A session: calls that meet the worker which holds their state, or are told that the state is lost."""

from __future__ import annotations

import contextlib
import copy
import datetime
import logging
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from snakepit import messages
from snakepit.client import errors
from snakepit.client.caller import Caller
from snakepit.client.link import Call, Link
from snakepit.client.options import Metadata, Options

_CLOSE_TIMEOUT: Final = 10.0  # seconds; the router ends what is not closed by the session's idle time
_LOG: Final = logging.getLogger("snakepit.client")


def _parse_time(text: str) -> datetime.datetime | None:
    if text.isdecimal():
        return datetime.datetime.fromtimestamp(int(text), datetime.UTC)
    with contextlib.suppress(ValueError):
        return datetime.datetime.fromisoformat(text)
    return None


class SessionLife:
    """What is known of a session, shared by all its views and threads.

    The first call of a life may create it, each later one carries the token of the last answer: so a new life can
    only begin where the caller knows of it.
    """

    def __init__(self, name: str, affinity: str, create: bool) -> None:
        self.name = name
        self.token = ""
        self.worker = ""
        self.state = ""
        self.ends_at: datetime.datetime | None = None
        self._affinity = affinity
        self._create = create
        self._number = 1
        self._used = False
        self._over: errors.SnakepitError | None = None
        self._in_doubt = False  # the worker died, so that the life has probably ended
        self._closed = False
        self._lock = threading.Lock()

    def attach(self) -> tuple[int, Metadata]:
        """Return the number of the life and the metadata of a call in it, or raise why there can be none."""
        with self._lock:
            if self._closed:
                raise errors.Closed(f"session {self.name} is closed; make a new one", session=self.name)
            if self._over is not None:
                raise copy.copy(self._over)
            self._used = True
            metadata = [("snakepit-session", self.name)]
            if self.token:
                metadata.append(("snakepit-session-token", self.token))
            elif self._create:
                metadata.append(("snakepit-session-create", "true"))
            if self._affinity:
                metadata.append(("snakepit-affinity", self._affinity))
            return self._number, tuple(metadata)

    def learn(self, number: int, headers: Mapping[str, str]) -> None:
        """Take what an answer or a refusal says; answers of an earlier life are ignored."""
        with self._lock:
            if number != self._number or self._over is not None:
                return
            self._in_doubt = False
            self.token = headers.get("snakepit-session-token", self.token)
            self.worker = headers.get("snakepit-worker", self.worker)
            self.state = headers.get("snakepit-session-state", self.state)
            if "snakepit-session-ends-at" in headers:
                self.ends_at = _parse_time(headers["snakepit-session-ends-at"])

    def fail(self, number: int, error: errors.SnakepitError) -> None:
        """Remember that the life is over, if that is what the error says."""
        with self._lock:
            if number != self._number or self._over is not None:
                return
            if isinstance(error, errors.SessionLost | errors.SessionExpired):
                self._over = copy.copy(error)
            self._in_doubt = isinstance(error, errors.WorkerDied)
            if self._in_doubt:
                # Where the first call of a life ended so, no answer has brought the token that the loss is told to.
                self.token = error.details.get("token", self.token)

    def reopen(self) -> None:
        """Forget the life if it is over; the next call begins one.

        A life that is not known to be over is kept: without its token a later loss would pass unnoticed.
        """
        with self._lock:
            if self._closed:
                raise errors.Closed(f"session {self.name} is closed; make a new one", session=self.name)
            if self._over is None and not self._in_doubt:
                return
            self._number += 1
            self._create = True
            self._over = None
            self._in_doubt = False
            self.token = self.worker = self.state = ""
            self.ends_at = None

    def close(self) -> Metadata:
        """Refuse further calls; return the metadata of a CloseSession, empty when there is nothing to close."""
        with self._lock:
            if self._closed or self._over is not None or not self._used:
                self._closed = True
                return ()
            self._closed = True
            token = (("snakepit-session-token", self.token),) if self.token else ()
            return (("snakepit-session", self.name), *token)


class Session(Caller):
    """Calls of one session; made by `Client.session`. Leaving the `with` block closes it. Safe for many threads."""

    _life: SessionLife

    def __init__(self, link: Link, options: Options, life: SessionLife) -> None:
        super().__init__(link, options)
        self._life = life

    @property
    def name(self) -> str:
        """The session's name, generated when none was given."""
        return self._life.name

    @property
    def worker(self) -> str:
        """The worker that gave the last answer; empty before the first."""
        return self._life.worker

    @property
    def state(self) -> str:
        """What the last answer said: new, bound or rebound."""
        return self._life.state

    @property
    def ends_at(self) -> datetime.datetime | None:
        """When the session's worker will end, as far as the router has announced it."""
        return self._life.ends_at

    @property
    def token(self) -> str:
        """Names this life of the session; empty before the first answer."""
        return self._life.token

    def with_options(
        self,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        idempotent: bool | None = None,
        tenant: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
    ) -> Session:
        """Return a view of the same session whose calls have other options."""
        options = self._options.changed(
            timeout=timeout, request_id=request_id, idempotent=idempotent, tenant=tenant, metadata=metadata
        )
        view = Session(self._link, options, self._life)
        view._streams, view._streams_lock = self._streams, self._streams_lock
        return view

    def reopen(self) -> None:
        """Acknowledge what this object has told, a lost or expired session or a worker that died.

        The next call begins a new life with fresh state. While nothing of the kind was told, this does nothing.
        """
        self._life.reopen()

    def close(self) -> None:
        """Cancel the session's streams and end it at the router. A session whose life is over stays as it is."""
        metadata = self._life.close()
        self._close_streams()
        if not metadata:
            return
        options = Options(timeout=min(self._options.timeout, _CLOSE_TIMEOUT)).changed(
            tenant=self._options.tenant or None
        )
        payload: bytes = messages.CloseSessionRequest().SerializeToString()
        # Closing what does not live is what the caller wants.
        with contextlib.suppress(errors.SessionError):
            call = Call(self._link, "CloseSession", payload, options, metadata=metadata)
            while call.read() is not None:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except errors.SnakepitError as problem:
            # The work of the block is done, or its own exception is on its way: neither is to be masked.
            _LOG.warning("session %s was not closed, it ends by its idle time: %s", self.name, problem)
