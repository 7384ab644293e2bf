"""What an adapter declares: its tools, found on a class, an instance or a module, and their signatures."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from typing import Any, Final

from snakepit import values
from snakepit.adapter import ToolOptions, tool_options
from snakepit.bridge.protocol import MAX_TOOLS, ToolKind
from snakepit.context import Context
from snakepit.errors import AdapterError, Code
from snakepit.worker.hints import Checker, Problems, UnsupportedHintError, compile_hint

_MAX_SCHEMA: Final = 16 << 10
_MAX_DESCRIPTION: Final = 1024
_STREAMS: Final = (abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator)


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


class Tool:
    """One callable of the adapter, ready to be called with an ExecuteRequest."""

    def __init__(self, options: ToolOptions, function: Callable[..., Any]) -> None:
        known = _known.get(getattr(function, "__func__", function))
        if known is not None and known.options is options:
            self.__dict__.update(known.__dict__, function=function, _no_problems=Problems())
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
        self._no_problems = Problems()
        self._description: str | None = None
        self._schema: str | None = None

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
        problems = self._no_problems
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
            # The next call begins with an empty list again.
            self._no_problems = Problems()
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
            self._description = text.encode()[:_MAX_DESCRIPTION].decode("utf-8", "ignore")
        return self._description

    def parameters_schema(self) -> str:
        """Return the JSON schema of the arguments; an open one when it would be above 16 KiB."""
        if self._schema is not None:
            return self._schema
        schema = {
            "type": "object",
            "properties": {name: checker.schema for name, checker in self.checkers.items()},
            "required": self.required,
            "additionalProperties": self.extra.schema or True if self.extra else False,
        }
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
        self._schema = text if len(text.encode()) <= _MAX_SCHEMA else '{"type":"object"}'
        return self._schema


# By function; filled by check_declarations.
_known: Final[dict[Any, Tool]] = {}


def _resolved_hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError as error:
        text = f"tool {name}: a type hint names {error.name!r}, which its module does not define"
        raise DeclarationError(text, function) from None


class Adapter:
    """A loaded adapter: an object with tools and hooks."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.tools = _collect(target)

    def hook(self, name: str) -> Callable[..., Any] | None:
        """Return a hook such as setup, or None."""
        found = getattr(self.target, name, None)
        return found if callable(found) else None


def instantiate(target: Any, arguments: list[str]) -> Adapter:
    """Return the adapter of a class, an instance or a module. A class gets the user's arguments if it takes any."""
    if not inspect.isclass(target):
        return Adapter(target)
    if arguments:
        try:
            inspect.signature(target).bind(*arguments)
        except TypeError as error:
            raise TypeError(f"{_label(target)} does not take the pool's args {arguments}: {error}") from None
    return Adapter(target(*arguments))


def check_declarations(target: Any) -> None:
    """Raise when tools are declared wrongly, without making an instance of a class.

    What is found out is kept for the workers that are forked later: to find it again would cost each of them memory.
    """
    if not inspect.isclass(target):
        _collect(target)
        return
    declared = _declared(target)
    _check_count(target, len(declared))
    for options, function in declared:
        # Any object does as self: only the signature is looked at.
        bound = function.__get__(object()) if inspect.isfunction(function) else function.__get__(None, target)
        tool = Tool(options, bound)
        tool.description(), tool.parameters_schema()
        _known[getattr(bound, "__func__", bound)] = tool


def _collect(target: Any) -> list[Tool]:
    owner: Any = target if isinstance(target, types.ModuleType) else type(target)
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


def _check_count(target: Any, count: int) -> None:
    if not count:
        raise DeclarationError(f"{_label(target)} declares no tool; decorate a method with @snakepit.tool")
    if count > MAX_TOOLS:
        raise DeclarationError(f"{_label(target)} declares {count} tools; at most {MAX_TOOLS} are possible")


def _declared(owner: Any) -> list[tuple[ToolOptions, Any]]:
    """Return what is decorated in a class (the nearest definition of each attribute) or a module."""
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
