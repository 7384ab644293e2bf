"""`snakepit.server()`: takes what `add_XServicer_to_server` registers, in the place of grpcio's server."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final

from snakepit import logs
from snakepit.servicer import descriptors
from snakepit.servicer.method import CallDetails, Method, check_interceptors
from snakepit.worker.tools import DeclarationError

MAX_METHODS: Final = 1024
MAX_PATH_BYTES: Final = 256
_PATH: Final = re.compile(r"/[^/\s]+/[^/\s]+")
_PORT: Final = re.compile(r".*:(\d+)")
_POOL_PORT: Final = 50051
_HOOKS: Final = frozenset(("setup", "teardown", "session_start", "session_end", "preload", "after_fork"))


def server(  # noqa: PLR0913  (the arguments of both servers)
    thread_pool: Any = None,
    handlers: Iterable[Any] | None = None,
    interceptors: Sequence[Any] | None = None,
    options: Any = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: Any = None,
    *,
    migration_thread_pool: Any = None,
    xds: bool = False,
    thread_safe: bool = False,
    methods: Iterable[str] = (),
    **hooks: Callable[..., Any],
) -> Server:
    """Return the server object that a pool's `adapter: module:server` names, to register gRPC servicers at.

    `handlers` and `interceptors` are those of `grpc.server` and `grpc.aio.server`. `thread_pool`, `options`,
    `maximum_concurrent_rpcs`, `compression`, `migration_thread_pool` and `xds` may stay in the call and do nothing: the
    pool's slots say how many calls run at a time, the router owns ports and transport.

    `thread_safe`: calls may overlap in one process; a pool with `profile: Thread` asks for it.
    `methods`: paths ("/package.Service/Method") that generic handlers of one's own serve without naming them.
    `hooks`: functions `setup`, `teardown`, `session_start`, `session_end`, `preload`, `after_fork`, as adapters have.
    """
    unknown = hooks.keys() - _HOOKS
    if unknown:
        raise TypeError(f"server() got an unexpected keyword argument {min(unknown)!r}")
    created = Server(interceptors or (), thread_safe=thread_safe, methods=methods, hooks=hooks)
    if handlers is not None:
        created.add_generic_rpc_handlers(handlers)
    return created


class Server:
    """Has the interface of `grpc.Server` and of `grpc.aio.Server`, and the one that the worker asks of an adapter."""

    def __init__(
        self,
        interceptors: Sequence[Any] = (),
        *,
        thread_safe: bool = False,
        methods: Iterable[str] = (),
        hooks: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.thread_safe = thread_safe
        # A server declares methods, no tools.
        self.tools: list[Any] = []
        self._interceptors = check_interceptors(interceptors)
        self._named = tuple(methods)
        self._hooks = dict(hooks or {})
        self._generic: list[Any] = []
        self._registered: dict[str, Any] = {}
        self._methods: list[Method] | None = None
        self._explained = False

    # What generated code calls.

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Serve the methods of generic handlers, after those that were registered one by one."""
        added = list(generic_rpc_handlers)
        for handler in added:
            if getattr(handler, "service", None) is None:
                text = 'must conform to grpc.GenericRpcHandler type but does not have "service" method!'
                raise AttributeError(f'"{handler}" {text}')
        self._check_open()
        self._generic += added

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Serve methods of one service."""
        self._check_open()
        self._registered |= {f"/{service_name}/{name}": handler for name, handler in method_handlers.items()}

    # What programs call that run a server of their own. None of it is needed here.

    def add_insecure_port(self, address: str) -> int:
        """Return the address's port, the pool's port for port 0; nothing is opened."""
        self._explain()
        found = _PORT.fullmatch(address)
        return int(found[1]) or _POOL_PORT if found else _POOL_PORT

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """Do as add_insecure_port does."""
        return self.add_insecure_port(address)

    def start(self) -> Done:
        """Do nothing; may be awaited."""
        self._explain()
        return Done()

    def wait_for_termination(self, timeout: float | None = None) -> Done:
        """Return at once, as if the server had ended: the import of the adapter must go on. May be awaited."""
        self._explain()
        return Done()

    def stop(self, grace: float | None = None) -> Stopped:
        """Do nothing; what it returns is set, and may be awaited."""
        self._explain()
        return Stopped()

    # What the worker asks.

    @property
    def methods(self) -> list[Method]:
        """What can be called, in the order of the paths. No handler can be added once this was asked for."""
        if self._methods is None:
            self._methods = self._collect()
        return self._methods

    @property
    def file_descriptors(self) -> list[bytes]:
        """Serialized FileDescriptorProtos of the services, what they import first, as far as protobuf knows them."""
        names = dict.fromkeys(method.path.split("/")[1] for method in self.methods)
        return descriptors.files(names)

    def hook(self, name: str) -> Callable[..., Any] | None:
        """Return a hook such as setup, or None."""
        return self._hooks.get(name)

    def _collect(self) -> list[Method]:
        found = dict(self._registered)
        for generic in self._generic:
            for path in self._paths_of(generic):
                handler = generic.service(CallDetails(path, ()))
                if handler is not None:
                    found.setdefault(path, handler)
        missing = [path for path in self._named if path not in found]
        if missing:
            raise DeclarationError(f"server(methods=...) names {missing[0]!r}, which no handler serves")
        if not found:
            text = "call add_XServicer_to_server(servicer, server) where the module is imported, not in main() alone"
            raise DeclarationError(f"the server serves no method; {text}")
        if len(found) > MAX_METHODS:
            raise DeclarationError(f"the server serves {len(found)} methods; at most {MAX_METHODS} are possible")
        return [self._method(path, found[path]) for path in sorted(found)]

    def _paths_of(self, generic: Any) -> list[str]:
        """Return the paths that a generic handler may serve."""
        known = getattr(generic, "_method_handlers", None)
        if isinstance(known, Mapping):
            # What generated code registers. The name is grpcio's own, and as old as generated code.
            return list(known)
        name = generic.service_name() if hasattr(generic, "service_name") else None
        declared = [f"/{name}/{method}" for method in descriptors.method_names(name)] if name else []
        paths = [*declared, *self._named]
        if not paths:
            text = "does not say which methods it serves; name them: server(methods=['/package.Service/Method'])"
            raise DeclarationError(f"generic handler {type(generic).__name__} {text}")
        return paths

    def _method(self, path: str, handler: Any) -> Method:
        if not _PATH.fullmatch(path) or len(path.encode()) > MAX_PATH_BYTES:
            raise DeclarationError(
                f"{path!r:.300} is no method's path; it is /package.Service/Method, at most 256 bytes"
            )
        registered = path in self._registered

        def lookup(details: Any) -> Any:
            # As in grpcio: with grpc.server a registered method stays what it is, all others may be renamed.
            return handler if registered or details.method == path else self._find(details)

        method = Method(path, handler, self._interceptors, lookup)
        method.idempotent = descriptors.idempotent(*path[1:].split("/"))
        return method

    def _find(self, details: Any) -> Any:
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    def _check_open(self) -> None:
        if self._methods is not None:
            raise DeclarationError(
                "handlers must be added while the module is imported; this worker has begun to serve"
            )

    def _explain(self) -> None:
        if not self._explained:
            self._explained = True
            text = "start, stop, wait_for_termination and ports do nothing here: the pool's router listens"
            logs.write("servicer", text, address="grpc://<pool>:50051")


class Done:
    """Nothing to wait for: false, and awaitable."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __await__(self) -> Generator[None, None, bool]:
        return False
        yield


class Stopped(threading.Event):
    """An event that is set, and awaitable."""

    def __init__(self) -> None:
        super().__init__()
        self.set()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield
