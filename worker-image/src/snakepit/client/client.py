"""`Client`: calls the tools of a pool."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from snakepit import messages
from snakepit.client import errors, options, wire
from snakepit.client.caller import Caller
from snakepit.client.link import Call, Link
from snakepit.client.session import Session, SessionLife

_HEALTH_SERVICE: Final = "snakepit.v1alpha1.Pool"  # serving when a worker is ready
_SERVING: Final = 1
_LOOK_AGAIN: Final = 0.25  # seconds between attempts of wait_ready to reach the router


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """A tool as its adapter declares it. `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    streaming: bool
    idempotent: bool


class Client(Caller):
    """Calls the tools of one pool; safe for many threads, and not for use across a fork.

    `address` is `host:port` or any gRPC target, or the name of a pool, `demo` or `demo.namespace`; without it the
    variable SNAKEPIT_ROUTER. `timeout` is the deadline of each call in seconds, queueing and retries included.
    """

    def __init__(self, address: str | None = None, *, timeout: float = options.DEFAULT_TIMEOUT) -> None:
        chosen = options.Options(timeout=options.check_timeout(timeout))
        super().__init__(Link(options.resolve_address(address)), chosen)
        self._owner = True

    @property
    def address(self) -> str:
        """The gRPC target of the router."""
        return self._link.address

    def with_options(
        self,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        idempotent: bool | None = None,
        tenant: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
    ) -> Client:
        """Return a view on the same connection whose calls have other options; closing a view closes nothing.

        `idempotent` says that the calls may run twice. `request_id` names one call in logs, and makes a repeat of it
        in the same session known as one.
        """
        chosen = self._options.changed(
            timeout=timeout, request_id=request_id, idempotent=idempotent, tenant=tenant, metadata=metadata
        )
        view = Client.__new__(Client)
        Caller.__init__(view, self._link, chosen)
        view._owner = False
        return view

    def session(
        self,
        name: str | None = None,
        *,
        affinity: options.Affinity | None = None,
        create: bool = True,
    ) -> Session:
        """Return a session, with a generated name when none is given. Nothing is sent before its first call.

        The first call creates the session, or joins the one that lives; with `create=False` it must live already,
        unless the pool creates sessions implicitly.
        """
        chosen = f"py-{os.urandom(16).hex()}" if name is None else options.check_session_name(name)
        life = SessionLife(chosen, options.check_affinity(affinity), create)
        return Session(self._link, self._options, life)

    def tools(self) -> list[Tool]:
        """Return what the adapter declares."""
        call = Call(self._link, "ListTools", b"", self._options)
        answer = call.read() or messages.ListToolsResponse()
        call.read()
        return [
            Tool(
                tool.name,
                tool.description,
                json.loads(tool.parameters_schema or "{}"),
                tool.streaming,
                tool.idempotent,
            )
            for tool in answer.tools
        ]

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return once a worker of the pool is ready; raise NotReady with what was seen last when it takes longer."""
        deadline = time.monotonic() + options.check_timeout(timeout)
        seen = "no answer yet"
        while (left := deadline - time.monotonic()) > 0:
            ready, last = self._look(left)
            if ready:
                return
            seen = last or seen
            if not self._link.pause(min(_LOOK_AGAIN, max(deadline - time.monotonic(), 0))):
                raise errors.Closed("the client was closed while it waited")
        raise errors.NotReady(f"{self.address} was not ready within {timeout:g} s: {seen}", code="UNAVAILABLE")

    def _look(self, seconds: float) -> tuple[bool, str]:
        """Watch the pool's health for so long; return whether it is ready, and what was seen if it is not."""
        request: bytes = wire.HealthCheckRequest(service=_HEALTH_SERVICE).SerializeToString()
        watch = self._options.changed(timeout=seconds)
        seen = ""
        try:
            call = Call(self._link, "Watch", request, watch)
            while (health := call.read()) is not None:
                if health.status == _SERVING:
                    call.cancel()
                    return True, ""
                seen = "the router answers, but no worker is ready"
        except (errors.MethodUnknown, errors.Closed):
            raise  # waiting will not help
        except errors.DeadlineExceeded:
            pass
        except errors.SnakepitError as problem:
            seen = str(problem)
        return False, seen

    def close(self) -> None:
        """End the connection; calls that run fail with Closed. Sessions live on until their idle time."""
        if self._owner:
            self._close_streams()
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
