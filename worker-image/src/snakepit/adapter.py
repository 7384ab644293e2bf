"""How an adapter is written: the `tool` decorator, the optional base class, and Progress."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, overload

from snakepit.context import Context
from snakepit.errors import CODES, Code

_F = TypeVar("_F", bound=Callable[..., Any])
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}\Z")
# What a client's session has already: s.close() must close the session, not call a tool.
RESERVED: Final = frozenset(
    (
        "call", "stream", "map", "submit", "close", "open", "name", "token", "state", "epoch", "worker", "session",
        "type", "wait_ready", "from_kube", "tools", "setup", "teardown", "session_start", "session_end", "preload",
        "after_fork", "save", "restore",
    )
)  # fmt: skip
_ATTRIBUTE: Final = "__snakepit_tool__"


@dataclasses.dataclass(frozen=True)
class ToolOptions:
    """What `@tool` said about a function."""

    name: str
    idempotent: bool = False
    interruptible: bool = False
    description: str | None = None
    errors: Mapping[type[BaseException], Code] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Progress:
    """A generator may yield this between its values: how far it is, 0 … 1, and a word about it."""

    fraction: float
    message: str = ""


@overload
def tool(function: _F, /) -> _F: ...


@overload
def tool(
    *,
    name: str | None = None,
    idempotent: bool = False,
    interruptible: bool = False,
    errors: Mapping[type[BaseException], str | Code] | None = None,
    description: str | None = None,
) -> Callable[[_F], _F]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    idempotent: bool = False,
    interruptible: bool = False,
    errors: Mapping[type[BaseException], str | Code] | None = None,
    description: str | None = None,
) -> Any:
    """Declare a function or method as callable from outside. It stays a plain function.

    `idempotent`: callers may ask for a repeat when it is unknown whether a call ran. `errors`: exception types and
    the gRPC code each is reported with, such as `{KeyError: "NOT_FOUND"}`. `name` and `description` replace the
    function's name and the first paragraph of its documentation.
    `interruptible`: when the call is given up, a signal raises snakepit.errors.Interrupted within the function, also
    while it sleeps or waits. Only for plain functions and generators, under profile Process; `finally` blocks run, but
    code between two statements may be interrupted anywhere, so the function must not leave shared state half changed.
    """

    def declare(target: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(target, (staticmethod, classmethod)) or not callable(target):
            raise TypeError("@tool takes a function; write @staticmethod or @classmethod above @tool, not below it")
        if interruptible and (inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)):
            raise TypeError("@tool(interruptible=True) is for plain functions; a cancel reaches coroutines without it")
        options = ToolOptions(
            name=_checked_name(target.__name__ if name is None else name),
            idempotent=idempotent,
            interruptible=interruptible,
            description=description,
            errors=_checked_errors(errors or {}),
        )
        setattr(target, _ATTRIBUTE, options)
        return target

    return declare if function is None else declare(function)


def tool_options(function: object) -> ToolOptions | None:
    """Return what `@tool` said about this function, or None."""
    options = getattr(function, _ATTRIBUTE, None)
    return options if isinstance(options, ToolOptions) else None


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"tool name {name!r:.140}: 1 to 128 of A-Z a-z 0-9 _ . and no digit or dot first")
    if name in RESERVED:
        raise ValueError(f"tool name {name!r} is reserved: sessions or adapters have it already; use @tool(name=…)")
    return name


def _checked_errors(given: Mapping[type[BaseException], str | Code]) -> dict[type[BaseException], Code]:
    checked: dict[type[BaseException], Code] = {}
    for kind, code in given.items():
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"@tool(errors=…): {kind!r} is not an exception class")
        name = code.name if isinstance(code, Code) else code
        if name not in CODES:
            raise ValueError(f"@tool(errors=…): {code!r} is not one of {', '.join(CODES)}")
        checked[kind] = CODES[name]
    return checked


class Adapter:
    """Optional base class: names the hooks and their defaults. Any class with `@tool` methods is an adapter."""

    # True declares that tools and hooks may overlap in several threads of one process; profile Thread asks for it.
    # The calls of one session never do.
    thread_safe = False

    @classmethod
    def preload(cls) -> None:
        """Run once, before workers are forked: import libraries and load what all workers share.

        A worker that is spawned, not forked, runs it for itself.
        """

    def after_fork(self) -> None:
        """Run in each forked worker before setup, on an adapter that was made before the fork."""

    def setup(self, ctx: Context) -> None:
        """Run once per worker, before its first call."""

    def session_start(self, ctx: Context) -> None:
        """Run when a session's life begins here; `ctx.session.state` is empty."""

    def session_end(self, ctx: Context) -> None:
        """Run when a session's life ends here."""

    def teardown(self) -> None:
        """Run once when the worker is asked to end."""
