"""What went wrong in an adapter, as the caller is told: status code, FinishInfo and RemoteError."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from typing import Any, Final

from snakepit import logs, messages, values
from snakepit.adapter import ToolOptions
from snakepit.bridge import messages as bridge
from snakepit.errors import AdapterError, Code, Interrupted

_MAX_MESSAGE: Final = 200
_MAX_TRACEBACK: Final = 64 << 10
_MAX_DETAIL_TRACEBACK: Final = 2 << 10
_MAX_VIOLATIONS: Final = 16
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS: Final = tuple(os.path.join(_PACKAGE, name) for name in ("worker", "servicer", "supervisor", "zygote"))
_LIBRARIES: Final = tuple(
    {os.path.realpath(path) + os.sep for path in sysconfig.get_paths().values() if "python" in path}
    | {os.path.join(_PACKAGE, name) for name in ("worker", "servicer", "supervisor", "zygote", "adapter.py", "bridge")}
)


class BadArgumentsError(AdapterError):
    """The arguments do not fit the tool's type hints; `violations` lists every bad field."""

    code = Code.INVALID_ARGUMENT

    def __init__(self, violations: list[tuple[str, str]]) -> None:
        path, problem = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{path}: {problem}{more}")
        self.violations = violations


class DeclarationError(TypeError):
    """A tool is declared in a way that no call could use; `file` and `line` say where."""

    def __init__(self, text: str, function: Callable[..., Any] | None = None) -> None:
        super().__init__(text)
        code = getattr(inspect.unwrap(function) if function else None, "__code__", None)
        self.file: str = code.co_filename if code else ""
        self.line: int = code.co_firstlineno if code else 0


def cut(text: str, limit: int) -> str:
    """Return at most `limit` bytes of a text, in UTF-8, on one character's border; what is no character becomes `?`."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"


def type_name(kind: type) -> str:
    """Return a class's qualified name, without the module for built-in ones."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """Return str(error), also when the exception cannot be shown."""
    try:
        return str(error)
    except Exception as second:
        return f"<its __str__ raised {type(second).__name__}>"


def summary(error: BaseException) -> str:
    """Return 'Type: message' in at most 200 bytes."""
    text = text_of(error)
    name = type(error).__name__
    return cut(f"{name}: {text}" if text else name, _MAX_MESSAGE)


def formatted(error: BaseException, limit: int = _MAX_TRACEBACK) -> str:
    """Return the traceback without our own frames before the adapter's; what is cut is cut in front."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next and frame.tb_frame.f_code.co_filename.startswith(_OURS):
        frame = frame.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frame))
    except Exception as second:
        text = f"{type_name(type(error))} (its traceback cannot be written: {type(second).__name__})\n"
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > limit:
        encoded = "… (cut)\n".encode() + encoded[-(limit - 16) :]
    return encoded.decode("utf-8", "ignore")


def place(error: BaseException) -> str:
    """Return file:line of the innermost frame of the user's own code, or of the error's file for a SyntaxError."""
    if isinstance(error, DeclarationError) and error.file:
        return f"{_short(error.file)}:{error.line}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno or 0}"
    found = ""
    for entry in traceback.extract_tb(error.__traceback__):
        file = os.path.realpath(entry.filename)
        if entry.filename.startswith("<") or (file.startswith(_LIBRARIES)):
            continue
        found = f"{_short(entry.filename)}:{entry.lineno}"
    return found


def _short(file: str) -> str:
    """Return a file's path from the folder it is imported from."""
    for folder in sorted(sys.path, key=len, reverse=True):
        root = os.path.join(os.path.abspath(folder or os.getcwd()), "")
        if os.path.abspath(file).startswith(root):
            return os.path.abspath(file)[len(root) :]
    return os.path.basename(file)


def remote_error(error: BaseException) -> Any:
    """Return the RemoteError of an exception."""
    bases = [base.__name__ for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base]
    hidden = {"BaseException", "object"}
    if type(error).__module__ == "builtins":
        hidden.add(type(error).__name__)
    remote = messages.RemoteError(
        type=type_name(type(error)),
        message=cut(text_of(error), _MAX_TRACEBACK),
        traceback=formatted(error),
        bases=[name for name in bases if name not in hidden],
    )
    for argument in error.args:
        if isinstance(argument, (str, bytes)) and len(argument) > _MAX_MESSAGE * 20:
            break
        try:
            plain = values.encode(argument)
        except (values.EncodeError, RecursionError):
            break
        if plain.ByteSize() > _MAX_MESSAGE * 40:
            break
        remote.args.append(plain)
    return remote


def log_exception(event: str, error: BaseException) -> None:
    """Log what raised, its place, and the traceback as one field."""
    logs.write("worker", event, type=type_name(type(error)), place=place(error), traceback=formatted(error, 8 << 10))


class Failure:
    """How a call failed: the code and extension of Finish, and the RemoteError beside it when the adapter raised."""

    def __init__(self, code: Code, reason: str, message: str, **more: Any) -> None:
        self.code = code
        self.info = bridge.FinishInfo(message=cut(message, _MAX_MESSAGE), reason=reason, **more)
        self.remote: Any = None


class FailureError(Exception):
    """Ends a call with a failure that is not the adapter's exception."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.info.message)
        self.failure = failure


def of_exception(error: BaseException, options: ToolOptions | None = None, cancelled: bool = False) -> Failure:
    """Return how a call fails that ended with this exception. Never raises: that would end the worker."""
    try:
        return _described(error, options, cancelled)
    except Exception as second:
        logs.write("worker", "an exception cannot be described", error=type(second).__name__)
        return Failure(
            Code.UNKNOWN, "ADAPTER_EXCEPTION", f"an exception that cannot be described: {type(second).__name__}"
        )


def _described(error: BaseException, options: ToolOptions | None, cancelled: bool) -> Failure:
    if isinstance(error, BadArgumentsError):
        shown = error.violations[:_MAX_VIOLATIONS]
        violations = [{"field": cut(field, 128), "description": cut(text, 160)} for field, text in shown]
        return Failure(Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", text_of(error), violations=violations)
    if cancelled and isinstance(error, (asyncio.CancelledError, GeneratorExit, Interrupted)):
        return Failure(Code.CANCELLED, "", "the call was cancelled")
    code = Code.INTERNAL if isinstance(error, values.EncodeError) else Code.UNKNOWN
    if isinstance(error, AdapterError):
        code = error.code
    if options is not None:
        for base in type(error).__mro__:
            if base in options.errors:
                code = options.errors[base]
                break
    kind = type(error)
    failure = Failure(
        code,
        "ADAPTER_EXCEPTION",
        summary(error),
        info={"type": cut(type_name(kind), 128), "module": cut(kind.__module__, 128)},
        traceback=formatted(error, _MAX_DETAIL_TRACEBACK),
    )
    failure.remote = remote_error(error)
    return failure
