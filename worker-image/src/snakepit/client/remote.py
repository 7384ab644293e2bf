"""`RemoteError`: an exception of the adapter, rebuilt at the caller from text and plain values, never unpickled.

Where the adapter raised a built-in exception of the list below, or a class derived from one, the object is also an
instance of that built-in type, so that `except ValueError:` works across the wire.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from snakepit.client.errors import FAILED, SnakepitError

# Left out on purpose: types that cannot have a second base class or whose constructor has a fixed signature
# (ExceptionGroup, UnicodeError's children, SyntaxError), those with a meaning of their own to the interpreter
# (StopIteration), and all that are no Exception.
_DOUBLED: Final[dict[str, type[Exception]]] = {
    cls.__name__: cls
    for cls in (
        ValueError,
        TypeError,
        LookupError,
        KeyError,
        IndexError,
        ArithmeticError,
        ZeroDivisionError,
        OverflowError,
        FloatingPointError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
        MemoryError,
        OSError,
        BlockingIOError,
        ChildProcessError,
        ConnectionError,
        BrokenPipeError,
        ConnectionAbortedError,
        ConnectionRefusedError,
        ConnectionResetError,
        FileExistsError,
        FileNotFoundError,
        InterruptedError,
        IsADirectoryError,
        NotADirectoryError,
        PermissionError,
        ProcessLookupError,
        TimeoutError,
    )
}


class RemoteError(SnakepitError):
    """The adapter raised. `remote_type` names its type, `remote_traceback` is what the worker's Python printed."""

    default_execution = FAILED
    default_reason = "ADAPTER_EXCEPTION"
    remote_type: str = ""
    remote_traceback: str = ""

    def __str__(self) -> str:
        """Return what `str()` of the original gave: KeyError, for one, shows its argument's repr."""
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by value; the class itself is made at run time and is found by its built-in type."""
        return _restore, (_builtin_of(type(self)), self.args, self.__dict__)


def _builtin_of(cls: type[RemoteError]) -> str:
    return next((base.__name__ for base in cls.__mro__ if _DOUBLED.get(base.__name__) is base), "")


@functools.cache
def _doubled(name: str) -> type[RemoteError]:
    """Return the class that is a RemoteError and the built-in type of this name."""
    if not name:
        return RemoteError
    builtin = _DOUBLED[name]
    documentation = f"The adapter raised {name}, or an exception derived from it."
    return type(f"Remote{name}", (RemoteError, builtin), {"__doc__": documentation, "__module__": __name__})


def _restore(name: str, args: Sequence[Any], state: dict[str, Any]) -> RemoteError:
    """Make the object and set the built-in's own attributes (errno, strerror, name …) from args."""
    cls = _doubled(name)
    # The constructor of the class whose layout is inherited: another one is refused as unsafe (MemoryError).
    layout: Any = cls.__base__
    error: RemoteError = layout.__new__(cls)
    if name:
        # The remote class may take other arguments than its built-in base: then args alone are kept.
        with contextlib.suppress(Exception):
            _DOUBLED[name].__init__(error, *args)
    error.args = tuple(args)
    error.__dict__.update(state)
    return error


def rebuild(
    message: str,
    *,
    remote_type: str,
    bases: Iterable[str] = (),
    args: Sequence[Any] = (),
    traceback: str = "",
    **attributes: Any,
) -> RemoteError:
    """Return the exception for a RemoteError message; attributes are those of SnakepitError."""
    own_name = remote_type.removeprefix("builtins.")
    name = next((base for base in (own_name, *bases) if base in _DOUBLED), "")
    plain = RemoteError(message, **attributes)
    plain.remote_type = remote_type
    plain.remote_traceback = traceback
    error = _restore(name, tuple(args) or (message,), plain.__dict__)
    if traceback:
        where = f" in worker {error.worker}" if error.worker else ""
        error.add_note(f"\nRemote traceback{where}:\n" + traceback.rstrip("\n"))
    return error
