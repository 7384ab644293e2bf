"""A tool of the adapter: its signature as a contract, and how it answers a call."""

from __future__ import annotations

import inspect
import json
import typing
from collections import abc
from collections.abc import Callable
from typing import Any, Final

from snakepit import messages, values
from snakepit.adapter import Progress, ToolOptions
from snakepit.bridge import messages as bridge
from snakepit.bridge.protocol import ToolKind
from snakepit.context import Context
from snakepit.errors import Code
from snakepit.worker.call import Call
from snakepit.worker.failure import BadArgumentsError, DeclarationError, Failure, FailureError, cut, of_exception
from snakepit.worker.hints import Checker, Problems, UnsupportedHintError, compile_hint
from snakepit.worker.wire import CancelledCallError

_MAX_SCHEMA: Final = 16 << 10
_MAX_DESCRIPTION: Final = 1024
_STREAMS: Final = (abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator)
_END: Final = object()
_PLAIN_RESULTS: Final = frozenset((bytes, str, int, float, bool, type(None), list, dict, tuple))


class Tool:
    """One callable of the adapter, ready to be called with an ExecuteRequest."""

    def __init__(self, options: ToolOptions, function: Callable[..., Any]) -> None:
        known = _known.get(getattr(function, "__func__", function))
        if known is not None and known.options is options:
            self.__dict__.update(known.__dict__, function=function)
            return
        self.options: ToolOptions = options
        self.name = options.name
        self.function = function
        self.context_name: str | None = None
        self.checkers: dict[str, Checker] = {}
        self.required: list[str] = []
        self.extra: Checker | None = None
        try:
            signature = inspect.signature(function)
        except ValueError:
            text = f"tool {self.name}: a method needs self as its first parameter (or @staticmethod above @tool)"
            raise DeclarationError(text, function) from None
        hints = _resolved_hints(function, options.name)
        for parameter in signature.parameters.values():
            self._declare(parameter, hints.get(parameter.name, Any))
        streams = typing.get_origin(hints.get("return")) or hints.get("return")
        generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self.streams = generator or streams in _STREAMS
        self.kind = ToolKind.STREAM if self.streams else ToolKind.UNARY
        self._description: str | None = None
        self._schema: str | None = None
        self._announcement: bytes | None = None

    def remember(self) -> None:
        """Keep what was found out for every later Tool of the same function."""
        self.announcement()
        _known[getattr(self.function, "__func__", self.function)] = self

    def run(self, call: Call) -> None:
        """Answer one call."""
        streaming = call.by_stream
        if self.streams and not streaming:
            text = f"{self.name} yields a stream: call it with ExecuteStream"
            violation = {"field": "tool", "description": text}
            raise FailureError(Failure(Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", text, violations=[violation]))
        payload = call.receive()
        if payload is None:
            raise FailureError(Failure(Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", "the call has no request message"))
        try:
            request = messages.ExecuteRequest.FromString(payload)
        except Exception:
            text = "the request is no ExecuteRequest, or is nested too deep"
            raise FailureError(Failure(Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", text)) from None
        arguments = self.bind(request)
        if self.context_name is not None:
            arguments[self.context_name] = CallContext(call)
        interrupts = call.host.interrupts
        if interrupts is not None and self.options.interruptible:
            result = interrupts.run(call, self.function, arguments)
        else:
            result = self.function(**arguments)
        # Looking for an attribute that is not there costs more than looking up the type.
        if type(result) not in _PLAIN_RESULTS and hasattr(result, "__await__"):
            result = call.run_coroutine(result)
        if self.streams:
            Stream(call, self.options.interruptible).send_all(result)
            call.finish(0)
        elif streaming:
            call.finish(0, answer=stream_message(result, 1))
        else:
            call.finish(0, answer=values.encode_result(result))

    def failed(self, call: Call, error: BaseException) -> None:
        """End a call whose handler raised: the caller gets the exception beside the status."""
        failure = of_exception(error, self.options, call.cancelled)
        answer = None
        if failure.remote is not None:
            kind = messages.ExecuteStreamResponse if call.by_stream else messages.ExecuteResponse
            answer = kind(error=failure.remote).SerializeToString()
        call.fail(failure, answer)

    def _declare(self, parameter: inspect.Parameter, hint: Any) -> None:
        name = parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL:
            text = f"tool {self.name}: *{name} is not possible, arguments travel by name; use a list"
            raise DeclarationError(text, self.function)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            text = f"tool {self.name}: {name} is positional-only, but arguments travel by name"
            raise DeclarationError(text, self.function)
        if hint is Context or name == "ctx":
            self.context_name = name
            return
        try:
            checker = compile_hint(hint)
        except UnsupportedHintError as error:
            raise DeclarationError(f"tool {self.name}: parameter {name}: {error}", self.function) from None
        if parameter.kind is parameter.VAR_KEYWORD:
            self.extra = checker
            return
        self.checkers[name] = checker
        if parameter.default is parameter.empty:
            self.required.append(name)

    def bind(self, request: Any) -> dict[str, Any]:
        """Return the keyword arguments of an ExecuteRequest, or raise BadArgumentsError with all that is wrong."""
        # One for each call: several may be bound at a time.
        problems = Problems()
        bound: dict[str, Any] = {}
        checkers = self.checkers
        arguments = request.arguments
        # By key: the items() of a protobuf map is written in Python, and slow.
        for name in arguments:
            try:
                value = values.decode(arguments[name], name)
            except values.DecodeError as error:
                problems.append((error.path, error.problem))
                continue
            checker = checkers.get(name) or self.extra
            if checker is None:
                problems.append((name, self._unknown()))
            else:
                bound[name] = checker.check(value, name, problems)
        if request.HasField("json"):
            self._bind_json(request.json, bound, problems)
        for name in self.required:
            if name not in bound and name not in [path for path, _ in problems]:
                problems.append((name, f"missing, expected {checkers[name].name}"))
        if problems:
            raise BadArgumentsError(list(problems))
        return bound

    def _bind_json(self, struct: Any, bound: dict[str, Any], problems: Problems) -> None:
        try:
            given = values.from_struct(struct)
        except values.DecodeError as error:
            problems.append((error.path, error.problem))
            return
        found, problems = problems, Problems()
        problems.from_json = True
        for name, value in given.items():
            checker = self.checkers.get(name) or self.extra
            if name in bound:
                problems.append((name, "given in both arguments and json; send it once"))
            elif checker is None:
                problems.append((name, self._unknown()))
            else:
                bound[name] = checker.check(value, name, problems)
        found.extend(problems)

    def _unknown(self) -> str:
        return f"no such argument; {self.name} takes " + (", ".join(self.checkers) or "none")

    def description(self) -> str:
        """Return the first paragraph of the documentation, at most 1,024 bytes."""
        if self._description is None:
            text = self.options.description
            if text is None:
                text = " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())
            self._description = cut(text, _MAX_DESCRIPTION)
        return self._description

    def parameters_schema(self) -> str:
        """Return the JSON schema of the arguments; an open one when it would be above 16 KiB."""
        if self._schema is None:
            schema = {
                "type": "object",
                "properties": {name: checker.schema for name, checker in self.checkers.items()},
                "required": self.required,
                "additionalProperties": self.extra.schema or True if self.extra else False,
            }
            text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
            self._schema = text if len(text.encode()) <= _MAX_SCHEMA else '{"type":"object"}'
        return self._schema

    def announcement(self) -> bytes:
        """Return a serialized Hello with this tool alone: those of several, joined, are a Hello with all of them."""
        if self._announcement is None:
            tool = {
                "name": self.name,
                "kind": int(self.kind),
                "description": self.description(),
                "parameters_schema": self.parameters_schema(),
                "idempotent": self.options.idempotent,
            }
            self._announcement = bridge.Hello(tools=[tool]).SerializeToString()
        return self._announcement


# By function; filled by Tool.remember before workers are forked.
_known: Final[dict[Any, Tool]] = {}


class CallContext(Context):
    """The context of a call: what is rarely asked for is read from the call then."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call
        self.worker = call.worker
        self.session = call.session
        self._deadline = call.deadline

    def __getattr__(self, name: str) -> Any:
        """Fill what has no value yet."""
        if name in ("request_id", "traceparent"):
            found: Any = getattr(self._call, name)
        elif name == "metadata":
            found = dict(self._call.metadata)
        else:
            raise AttributeError(f"the context has no {name!r}")
        setattr(self, name, found)
        return found

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave the call up, or its deadline passed."""
        return self._call.cancelled


class Stream:
    """Sends what a generator yields, and closes it when its call is cancelled or the link breaks."""

    def __init__(self, call: Call, interruptible: bool) -> None:
        self._call = call
        self._interruptible = interruptible
        self._sequence = 0

    def send_all(self, result: Any) -> None:
        """Send every value, each with its number."""
        call = self._call
        following, close = self._of_async(result) if hasattr(result, "__anext__") else self._of_plain(result)
        try:
            while not call.cancelled:
                item = following()
                if item is _END:
                    return
                if call.cancelled:
                    break
                self._sequence += 1
                call.send(stream_message(item, self._sequence), f"value {self._sequence}")
            raise CancelledCallError
        finally:
            close()

    def _of_plain(self, result: Any) -> tuple[Callable[[], Any], Callable[[], None]]:
        iterator = iter(result)
        interrupts = self._call.host.interrupts if self._interruptible else None
        if interrupts is None:
            return (lambda: next(iterator, _END)), getattr(iterator, "close", _nothing)

        def following() -> Any:
            return interrupts.run(self._call, lambda: next(iterator, _END), {})

        return following, getattr(iterator, "close", _nothing)

    def _of_async(self, result: Any) -> tuple[Callable[[], Any], Callable[[], None]]:
        call = self._call

        def following() -> Any:
            try:
                return call.run_coroutine(result.__anext__())
            except StopAsyncIteration:
                return _END

        def close() -> None:
            if hasattr(result, "aclose"):
                # A clean-up, which a cancel must not interrupt.
                call.host.loop.run(result.aclose())

        return following, close


def _nothing() -> None:
    pass


def stream_message(item: Any, sequence: int) -> bytes:
    """Return a value of a stream as its message."""
    message = messages.ExecuteStreamResponse(sequence=sequence)
    if isinstance(item, Progress):
        message.progress.fraction = item.fraction
        message.progress.message = item.message
    else:
        values.encode_into(item, message.value, f"value {sequence}")
    encoded: bytes = message.SerializeToString()
    return encoded


def _resolved_hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError as error:
        text = f"tool {name}: a type hint names {error.name!r}, which its module does not define"
        raise DeclarationError(text, function) from None
