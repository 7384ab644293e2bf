"""What an adapter declares: its tools, found on a class, an instance or a module, and the methods of a server."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from snakepit.adapter import ToolOptions, tool_options
from snakepit.bridge.protocol import MAX_METHOD_PATH, MAX_METHODS, MAX_SLOTS, MAX_TOOLS
from snakepit.worker.execution import Tool
from snakepit.worker.failure import DeclarationError
from snakepit.worker.wire import Method


class ThreadSafetyNotDeclared(TypeError):
    """Profile Thread, but the adapter does not say that its tools may overlap."""

    # Reported by its bare name, as what Python itself raises.
    __module__ = "builtins"


class Served(Protocol):
    """What `snakepit.server()` returns, as far as a worker uses it."""

    methods: Sequence[Method]
    # Serialized FileDescriptorProto.
    file_descriptors: Sequence[bytes]
    thread_safe: bool


class Adapter:
    """A loaded adapter: an object with tools and hooks, or a server with methods and hooks."""

    def __init__(self, target: Any) -> None:
        self.target = target
        server = as_server(target)
        self.methods: list[Method] = _checked_methods(target, server.methods) if server else []
        self.file_descriptors: list[bytes] = list(server.file_descriptors) if server else []
        self.tools = [] if server else _collect(target)
        self.thread_safe = getattr(target, "thread_safe", False) is True

    def hook(self, name: str) -> Callable[..., Any] | None:
        """Return a hook such as setup, or None."""
        found = getattr(self.target, name, None)
        return found if callable(found) else None


def as_server(target: Any) -> Served | None:
    """Return the target if it is a server of `snakepit.server()`; nothing of gRPC is imported to find out."""
    kind = type(target)
    if not hasattr(kind, "add_generic_rpc_handlers"):
        return None
    if not hasattr(kind, "methods"):
        raise DeclarationError(
            "the adapter is a server of grpc; make it with snakepit.server() instead of grpc.server()"
        )
    server: Served = target
    return server


def slot_count() -> int:
    """Return how many calls may run at a time in this worker (SNAKEPIT_SLOTS)."""
    text = os.environ.get("SNAKEPIT_SLOTS") or "1"
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_SLOTS:
        raise ValueError(f"SNAKEPIT_SLOTS is {text!r:.20}; it must be a number from 1 to {MAX_SLOTS}")
    return int(text)


def instantiate(target: Any, arguments: list[str]) -> Adapter:
    """Return the adapter of a class, an instance, a module or a server. A class gets the user's arguments, if any."""
    check_profile(target)
    if not inspect.isclass(target):
        return Adapter(target)
    if arguments:
        try:
            inspect.signature(target).bind(*arguments)
        except TypeError as error:
            raise TypeError(f"{_label(target)} does not take the pool's args {arguments}: {error}") from None
    return Adapter(target(*arguments))


def check_profile(target: Any) -> None:
    """Raise when several calls shall run at a time in an adapter that was not made for it."""
    slots = slot_count()
    if slots == 1:
        return
    if getattr(target, "thread_safe", False) is not True:
        how = (
            "call snakepit.server(thread_safe=True)"
            if as_server(target)
            else f"set thread_safe = True in {_label(target)}"
        )
        raise ThreadSafetyNotDeclared(
            f"the pool runs {slots} calls at a time in one process (profile: Thread), but the adapter does not declare "
            f"that it allows this; {how} once its handlers may overlap, or use profile: Process"
        )
    for options, function in _declared(_owner(target)):
        if options.interruptible:
            text = f"tool {options.name}: interruptible=True needs profile: Process; a thread cannot be interrupted"
            raise DeclarationError(text, getattr(function, "__func__", function))


def check_declarations(target: Any) -> None:
    """Raise when tools are declared wrongly, without making an instance of a class.

    What is found out is kept for the workers that are forked later: to find it again would cost each of them memory.
    """
    check_profile(target)
    server = as_server(target)
    if server is not None:
        _checked_methods(target, server.methods)
        return
    if not inspect.isclass(target):
        _collect(target)
        return
    declared = _declared(target)
    _check_count(target, len(declared))
    for options, function in declared:
        # Any object does as self: only the signature is looked at.
        bound = function.__get__(object()) if inspect.isfunction(function) else function.__get__(None, target)
        Tool(options, bound).remember()


def remember(target: Any) -> None:
    """Keep what is decorated for the workers that are forked later, as it is once preload has run."""
    owner = _owner(target)
    _remembered[:] = [(owner, _declared(owner))]


# At most one owner, compared by identity: a metaclass may make its classes unhashable.
_remembered: list[tuple[Any, list[tuple[ToolOptions, Any]]]] = []


def _owner(target: Any) -> Any:
    """Return the class or module whose members are the tools."""
    return target if inspect.isclass(target) or isinstance(target, types.ModuleType) else type(target)


def _collect(target: Any) -> list[Tool]:
    owner = _owner(target)
    tools: dict[str, Tool] = {}
    for options, function in _declared(owner):
        if isinstance(target, types.ModuleType):
            bound = function
        else:
            bound = function.__get__(target, owner) if hasattr(function, "__get__") else function
        if options.name in tools:
            raise DeclarationError(f"{_label(target)} declares the tool {options.name!r} twice", bound)
        tools[options.name] = Tool(options, bound)
    _check_count(target, len(tools))
    return [tools[name] for name in sorted(tools)]


def _checked_methods(target: Any, methods: Sequence[Method]) -> list[Method]:
    paths = {method.path for method in methods}
    if not methods:
        raise DeclarationError(f"{_label(target)} serves no method; register a servicer with add_…Servicer_to_server")
    if len(paths) < len(methods) or len(methods) > MAX_METHODS:
        raise DeclarationError(
            f"{_label(target)} serves {len(methods)} methods with {len(paths)} paths; each once, and at most "
            f"{MAX_METHODS}"
        )
    for path in paths:
        if len(path.encode()) > MAX_METHOD_PATH or not path.startswith("/") or path.count("/") != 2:
            raise DeclarationError(f"method {path!r:.300} is not /package.Service/Method of {MAX_METHOD_PATH} bytes")
    return list(methods)


def _check_count(target: Any, count: int) -> None:
    if not count:
        raise DeclarationError(f"{_label(target)} declares no tool; decorate a method with @snakepit.tool")
    if count > MAX_TOOLS:
        raise DeclarationError(f"{_label(target)} declares {count} tools; at most {MAX_TOOLS} are possible")


def _declared(owner: Any) -> list[tuple[ToolOptions, Any]]:
    """Return what is decorated in a class (the nearest definition of each attribute) or a module."""
    for known, declared in _remembered:
        if known is owner:
            return declared
    members: Mapping[str, Any]
    if inspect.isclass(owner):
        members = {name: value for base in reversed(owner.__mro__) for name, value in vars(base).items()}
    else:
        members = vars(owner)
    found = []
    for value in members.values():
        raw = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        options = tool_options(raw)
        if options is not None and not inspect.isclass(raw):
            found.append((options, value))
    return found


def _label(target: Any) -> str:
    if isinstance(target, types.ModuleType):
        return f"module {target.__name__}"
    return (target if inspect.isclass(target) else type(target)).__qualname__
