"""A router for tests: a real gRPC server in this process that keeps sessions by the affinity contract.

Tools are Python functions of the request's arguments; what they yield, return or raise decides the answer.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from snakepit import messages, values
from snakepit.client import wire

HEALTH = "/grpc.health.v1.Health/Watch"
POOL = "/snakepit.v1alpha1.Pool/"


@dataclasses.dataclass
class Failure(Exception):
    """A status other than OK, as a router writes it."""

    code: str
    reason: str = ""
    message: str = "refused"
    info: dict[str, str] = dataclasses.field(default_factory=dict)
    violations: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    pushback: str | None = None
    retry_info: float | None = None
    traceback: list[str] = dataclasses.field(default_factory=list)
    body: Any = None
    trailers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    domain: str = "snakepit.dev"

    def details(self) -> bytes:
        """Return the value of grpc-status-details-bin."""
        status = wire.Status(code=grpc.StatusCode[self.code].value[0], message=self.message)
        found: list[tuple[str, Any]] = []
        if self.reason:
            info = wire.ErrorInfo(reason=self.reason, domain=self.domain)
            for key, value in self.info.items():
                info.metadata.add(key=key, value=value)
            found.append(("ErrorInfo", info))
        if self.violations:
            bad = wire.BadRequest()
            for field, description in self.violations:
                bad.field_violations.add(field=field, description=description)
            found.append(("BadRequest", bad))
        if self.retry_info is not None:
            retry = wire.RetryInfo()
            retry.retry_delay.seconds = int(self.retry_info)
            retry.retry_delay.nanos = round(self.retry_info % 1 * 1e9)
            found.append(("RetryInfo", retry))
        if self.traceback:
            found.append(("DebugInfo", wire.DebugInfo(stack_entries=self.traceback)))
        for name, message in found:
            status.details.add(type_url=f"type.googleapis.com/google.rpc.{name}", value=message.SerializeToString())
        return bytes(status.SerializeToString())


def adapter_raised(kind: str, message: str, **fields: Any) -> Failure:
    """Return the failure of a tool that raised, with the RemoteError in the body."""
    args = [values.encode(item) for item in fields.pop("args", [])]
    body = messages.RemoteError(type=kind, message=message, args=args, **fields)
    return Failure("UNKNOWN", "ADAPTER_EXCEPTION", message[:200], {"type": kind}, pushback="-1", body=body)


@dataclasses.dataclass
class Seen:
    """One call as the router saw it."""

    method: str
    metadata: dict[str, str]
    tool: str
    arguments: dict[str, Any]
    time_remaining: float


@dataclasses.dataclass
class Running:
    """What a tool may look at."""

    seen: Seen
    context: Any
    state: dict[str, Any]

    def wait_cancelled(self, timeout: float = 5) -> bool:
        """Wait until the caller gave up."""
        deadline = time.monotonic() + timeout
        ended = threading.Event()
        self.context.add_callback(ended.set)
        return ended.wait(max(0, deadline - time.monotonic())) or not self.context.is_active()


@dataclasses.dataclass
class Life:
    """One life of a session."""

    token: str
    state: dict[str, Any] = dataclasses.field(default_factory=dict)


Tool = Callable[[Running], Any]


class Router(grpc.GenericRpcHandler):
    """Serves Pool and health on a free port; `seen` lists every call."""

    def __init__(self) -> None:
        self.tools: dict[str, Tool] = {}
        self.seen: list[Seen] = []
        self.lives: dict[str, Life] = {}
        self.lost: dict[str, str] = {}  # name → token of the life that was lost
        self.headers: list[tuple[str, str]] = []
        self.health: list[int | Failure] = [1]
        self.close_failure: Failure | None = None
        self._epoch = 1000
        self._lock = threading.Lock()
        self._server: Any = None
        self.port = 0

    def start(self, port: int = 0) -> None:
        """Listen."""
        self._server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        """Stop as a killed process would: running calls break off."""
        self._server.stop(0).wait(5)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def calls(self, method: str = "Execute") -> list[Seen]:
        """Return the calls of one method."""
        return [seen for seen in self.seen if seen.method == method]

    def lose(self, name: str) -> None:
        """End a session as the death of its worker does."""
        with self._lock:
            self.lost[name] = self.lives.pop(name).token

    def service(self, handler_call_details: Any) -> Any:
        """Serve any method as a stream of bytes."""
        path: str = handler_call_details.method
        method = path.rpartition("/")[2]
        metadata = dict(handler_call_details.invocation_metadata)

        def behaviour(request: bytes, context: Any) -> Iterator[bytes]:
            return self._serve(path, method, metadata, request, context)

        return grpc.unary_stream_rpc_method_handler(behaviour)

    def _serve(self, path: str, method: str, metadata: dict[str, str], request: bytes, context: Any) -> Iterator[bytes]:
        if path == HEALTH:
            yield from self._watch(context)
            return
        seen = Seen(method, metadata, "", {}, context.time_remaining() or 0.0)
        try:
            if method in {"Execute", "ExecuteStream"}:
                message = messages.ExecuteRequest.FromString(request)
                seen.tool = message.tool
                seen.arguments = {key: values.decode(value) for key, value in message.arguments.items()}
            self.seen.append(seen)
            answer: Iterator[Any] = getattr(self, f"_{method.lower()}")(seen, context)
            for item in answer:
                yield item.SerializeToString()
        except Failure as failure:
            if failure.body is not None:
                kind = messages.ExecuteStreamResponse if method == "ExecuteStream" else messages.ExecuteResponse
                yield kind(error=failure.body).SerializeToString()
            self._abort(failure, seen, context)

    def _abort(self, failure: Failure, seen: Seen, context: Any) -> None:
        trailers: list[tuple[str, Any]] = [("snakepit-request-id", seen.metadata.get("snakepit-request-id", ""))]
        trailers += failure.trailers
        if failure.reason:
            trailers.append(("grpc-status-details-bin", failure.details()))
        if failure.pushback is not None:
            trailers.append(("grpc-retry-pushback-ms", failure.pushback))
        context.set_trailing_metadata(tuple(trailers))
        context.abort(grpc.StatusCode[failure.code], failure.message)

    def _watch(self, context: Any) -> Iterator[bytes]:
        while True:
            with self._lock:
                state = self.health.pop(0) if len(self.health) > 1 else self.health[0]
            if isinstance(state, Failure):
                self._abort(state, Seen("Watch", {}, "", {}, 0), context)
                return
            yield wire.HealthCheckResponse(status=state).SerializeToString()
            if len(self.health) == 1 and self.health[0] == state:
                ended = threading.Event()
                if context.add_callback(ended.set):
                    ended.wait(10)
                return

    def _admit(self, seen: Seen) -> tuple[Life | None, list[tuple[str, str]]]:
        """Apply the affinity contract; return the life and the headers that speak of it."""
        name = seen.metadata.get("snakepit-session")
        if name is None:
            return None, []
        token = seen.metadata.get("snakepit-session-token", "")
        create = seen.metadata.get("snakepit-session-create") == "true"
        with self._lock:
            life = self.lives.get(name)
            state = "bound"
            if life is None and self.lost.get(name) and not create:
                info = {"cause": "WORKER_DIED", "epoch": "1001", "worker": "pod-0/3"}
                raise Failure("ABORTED", "SESSION_LOST", f"session {name} is lost", info, pushback="-1")
            if token and (life is None or life.token != token):
                raise Failure("FAILED_PRECONDITION", "SESSION_EXPIRED", "it has ended", pushback="-1")
            if life is None:
                if not create:
                    raise Failure("FAILED_PRECONDITION", "SESSION_UNKNOWN", "send snakepit-session-create: true")
                self.lost.pop(name, None)
                self._epoch += 1
                life = self.lives[name] = Life(f"token-{self._epoch}")
                state = "new"
        return life, [("snakepit-session-token", life.token), ("snakepit-session-state", state)]

    def _run(self, seen: Seen, context: Any) -> Any:
        life, headers = self._admit(seen)
        tool = self.tools.get(seen.tool)
        if tool is None:
            raise Failure("NOT_FOUND", "TOOL_UNKNOWN", f"no tool {seen.tool}; did you mean add?")
        headers += [("snakepit-worker", "pod-0/0"), *self.headers]
        running = Running(seen, context, life.state if life is not None else {})
        if seen.method == "ExecuteStream":
            context.send_initial_metadata(tuple(headers))
            return tool(running)
        try:
            result = tool(running)
        except Failure as failure:
            if failure.body is not None:  # without a body it is trailers only, as at the real router
                context.send_initial_metadata(tuple(headers))
            raise
        context.send_initial_metadata(tuple(headers))
        return result

    def _execute(self, seen: Seen, context: Any) -> Iterator[Any]:
        result = self._run(seen, context)
        value = result if isinstance(result, messages.Value) else values.encode(result)
        yield messages.ExecuteResponse(result=value)

    def _executestream(self, seen: Seen, context: Any) -> Iterator[Any]:
        for number, item in enumerate(self._run(seen, context), 1):
            if isinstance(item, messages.Progress):
                yield messages.ExecuteStreamResponse(progress=item, sequence=number)
            else:
                yield messages.ExecuteStreamResponse(value=values.encode(item), sequence=number)

    def _closesession(self, seen: Seen, context: Any) -> Iterator[Any]:
        if self.close_failure is not None:
            raise self.close_failure
        name = seen.metadata["snakepit-session"]
        with self._lock:
            closed = self.lives.pop(name, None) is not None
        yield messages.CloseSessionResponse(closed=closed)

    def _listtools(self, seen: Seen, context: Any) -> Iterator[Any]:
        answer = messages.ListToolsResponse()
        answer.tools.add(name="add", description="Adds.", parameters_schema='{"type": "object"}', idempotent=True)
        answer.tools.add(name="countdown", streaming=True)
        yield answer
