"""What clients and sessions have in common: calling tools, and reading streams."""

from __future__ import annotations

import abc
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from snakepit import messages, values
from snakepit.adapter import RESERVED, Progress
from snakepit.client import errors
from snakepit.client.link import Call, Life, Link
from snakepit.client.options import Options, invalid

# Attributes that clients and sessions have, or will have: `client.<name>` is never a tool of this name.
_NOT_TOOLS: Final = RESERVED | {"address", "ends_at", "reopen", "with_options"}


def encode(tool: object, arguments: dict[str, Any]) -> bytes:
    """Return the bytes of an ExecuteRequest, or raise InvalidArguments with every argument that cannot travel."""
    if not isinstance(tool, str) or not tool:
        raise invalid("tool", f"the name of a tool, not {tool!r}")
    request = messages.ExecuteRequest(tool=tool)
    violations: list[tuple[str, str]] = []
    for name, value in arguments.items():
        try:
            values.encode_into(value, request.arguments[name], name)
        except values.WireValueError as problem:
            violations.append((problem.path, problem.problem))
    if violations:
        error = errors.InvalidArguments(f"arguments of {tool} cannot be sent", tool=tool)
        error.violations = tuple(violations)
        raise error
    data: bytes = request.SerializeToString()
    return data


def decode(value: Any, tool: str) -> Any:
    """Return the Python value of an answer, which the tool has given whether it can be read here or not."""
    try:
        return values.decode(value)
    except values.DecodeError as problem:
        raise errors.SnakepitError(f"{tool}: the answer cannot be read here: {problem}", tool=tool) from problem


class Stream(Iterator[Any]):
    """What a tool yields, one value at a time. Leaving it early, by `close` or by dropping it, cancels the call."""

    def __init__(self, call: Call, progress: Callable[[Progress], object] | None) -> None:
        self._call = call
        self._progress = progress
        self._ended = False

    @property
    def worker(self) -> str:
        """The worker that yields; empty before the first value."""
        return self._call.worker

    @property
    def request_id(self) -> str:
        """The call's request id."""
        return self._call.origin.request_id

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while not self._ended:
            try:
                message = self._call.read()
            except BaseException:
                self._ended = True
                raise
            if message is None:
                self._ended = True
            elif message.WhichOneof("outcome") == "progress":
                if self._progress is not None:
                    self._progress(Progress(message.progress.fraction, message.progress.message))
            else:
                return decode(message.value, self._call.origin.tool)
        raise StopIteration

    def close(self) -> None:
        """Cancel the call unless it has ended. Any thread may do so."""
        if not self._ended:
            self._ended = True
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()


class Caller(abc.ABC):
    """Calls tools. `caller.add(a=1)` is short for `caller.call("add", a=1)`."""

    _link: Link
    _options: Options
    _life: Life | None = None

    def __init__(self, link: Link, options: Options) -> None:
        self._link = link
        self._options = options
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._streams_lock = threading.Lock()

    def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool that gives one answer, and return it."""
        call = Call(self._link, "Execute", encode(tool, arguments), self._options, tool=tool, life=self._life)
        answer = call.read()
        if answer is not None:
            call.read()  # the status; an error beside a result is an error
        if answer is None or answer.WhichOneof("outcome") is None:
            raise errors.SnakepitError(f"{tool}: the router ended the call without an answer", tool=tool)
        return decode(answer.result, tool)

    def stream(self, tool: str, /, **arguments: Any) -> Stream:
        """Call a tool and return an iterator of what it yields.

        `progress=` a callable is not an argument of the tool: it is called with each `Progress` that the tool yields,
        in the thread that reads the stream. Without it, progress is dropped.
        """
        progress = arguments.pop("progress") if callable(arguments.get("progress")) else None
        payload = encode(tool, arguments)
        call = Call(self._link, "ExecuteStream", payload, self._options, tool=tool, life=self._life)
        stream = Stream(call, progress)
        with self._streams_lock:
            self._streams.add(stream)
        return stream

    def _close_streams(self) -> None:
        with self._streams_lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in _NOT_TOOLS:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}; a tool of this name is called with call({name!r})"
            )
        return functools.partial(self.call, name)
