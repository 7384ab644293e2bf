"""Type hints as contract: each hint becomes a checker that converts a received value or says what it expected."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any, Final, Literal, Union, get_args, get_origin

Schema = dict[str, Any]


class Problems(list[tuple[str, str]]):
    """What is wrong, as (path, description). `from_json`: the value came as JSON, which has no bytes."""

    from_json = False

    def expect(self, path: str, expected: str, got: object) -> None:
        """Add that `expected` was wanted at `path`; the value itself is never repeated, only its type."""
        self.append((path, f"expected {expected}, got {_type_name(got)}"))


@dataclasses.dataclass(eq=False)
class Checker:
    """One hint: its name for people, its JSON schema, and the function that checks and converts."""

    name: str
    schema: Schema
    check: Callable[[Any, str, Problems], Any]


class UnsupportedHintError(TypeError):
    """A hint that no value from the wire can fulfil."""


def compile_hint(hint: Any, known: dict[Any, Checker] | None = None) -> Checker:
    """Return the checker of a type hint. `known` holds those being compiled, so that types may contain themselves."""
    known = {} if known is None else known
    hint = _plain(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union([compile_hint(item, known) for item in arguments])
    if origin is Literal:
        return _literal(arguments)
    kind = origin or hint
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray:
        return _array(numpy, arguments)
    if kind is tuple:
        return _tuple(arguments, known)
    if kind in _SEQUENCES:
        return _sequence(_SEQUENCES[kind], compile_hint(arguments[0] if arguments else Any, known))
    if kind in _MAPPINGS:
        if arguments and compile_hint(arguments[0]) not in (_SIMPLE[str], _SIMPLE[Any]):
            raise UnsupportedHintError(f"{_hint_name(hint)}: keys on the wire are str; use dict[str, …]")
        return _mapping(compile_hint(arguments[1] if arguments else Any, known))
    if inspect.isclass(kind):
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if dataclasses.is_dataclass(kind):
            return _dataclass(kind, known)
        if typing.is_typeddict(kind):
            return _typed_dict(kind, known)
    raise UnsupportedHintError(
        f"{_hint_name(hint)} cannot cross the wire; use bool, int, float, str, bytes, list, dict[str, …], tuple, "
        "Optional, Literal, an Enum, a dataclass, a TypedDict, numpy.ndarray or Any"
    )


def _plain(hint: Any) -> Any:
    """Take away what says nothing about the value."""
    while True:
        if get_origin(hint) in _WRAPPERS:
            hint = get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif isinstance(hint, typing.TypeVar):
            hint = hint.__bound__ or Any
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif hint is None:
            return type(None)
        else:
            return hint


_WRAPPERS: Final = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)
_SEQUENCES: Final[dict[Any, Callable[[Any], Any]]] = {
    list: list, set: set, frozenset: frozenset, abc.Sequence: list, abc.MutableSequence: list, abc.Iterable: list,
    abc.Collection: list, abc.Set: frozenset, abc.MutableSet: set,
}  # fmt: skip
_MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)


def _hint_name(hint: Any) -> str:
    return getattr(hint, "__qualname__", None) or str(hint)


def _type_name(value: object) -> str:
    if value is None:
        return "None"
    return {"ndarray": "array"}.get(type(value).__name__, type(value).__name__)


def _any(value: Any, path: str, problems: Problems) -> Any:
    return value


def _check_none(value: Any, path: str, problems: Problems) -> Any:
    if value is not None:
        problems.expect(path, "None", value)


def _check_bool(value: Any, path: str, problems: Problems) -> Any:
    if value is not True and value is not False:
        problems.expect(path, "bool", value)
    return value


def _check_int(value: Any, path: str, problems: Problems) -> Any:
    if type(value) is not int:
        problems.expect(path, "int", value)
    return value


def _check_float(value: Any, path: str, problems: Problems) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            problems.append((path, "expected float, got an int above its range"))
            return value
    problems.expect(path, "float", value)
    return value


def _check_complex(value: Any, path: str, problems: Problems) -> Any:
    if type(value) not in (int, float):
        problems.expect(path, "a number", value)
        return value
    return complex(value)


def _check_str(value: Any, path: str, problems: Problems) -> Any:
    if type(value) is not str:
        problems.expect(path, "str", value)
    return value


def _bytes_check(convert: Callable[[bytes], Any]) -> Callable[[Any, str, Problems], Any]:
    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is bytes:
            return value if convert is bytes else convert(value)
        if problems.from_json and type(value) is str:
            try:
                return convert(base64.b64decode(value, validate=True))
            except (binascii.Error, ValueError):
                problems.append((path, "expected bytes as base64 text, got text that is not base64"))
                return value
        problems.expect(path, "bytes", value)
        return value

    return check


_BYTES_SCHEMA: Final[Schema] = {"type": "string", "contentEncoding": "base64"}
_SIMPLE: Final[dict[Any, Checker]] = {
    Any: Checker("any value", {}, _any),
    object: Checker("any value", {}, _any),
    inspect.Parameter.empty: Checker("any value", {}, _any),
    type(None): Checker("None", {"type": "null"}, _check_none),
    bool: Checker("bool", {"type": "boolean"}, _check_bool),
    int: Checker("int", {"type": "integer"}, _check_int),
    float: Checker("float", {"type": "number"}, _check_float),
    complex: Checker("a number", {"type": "number"}, _check_complex),
    str: Checker("str", {"type": "string"}, _check_str),
    bytes: Checker("bytes", _BYTES_SCHEMA, _bytes_check(bytes)),
    bytearray: Checker("bytes", _BYTES_SCHEMA, _bytes_check(bytearray)),
    memoryview: Checker("bytes", _BYTES_SCHEMA, _bytes_check(memoryview)),
}


def _union(members: list[Checker]) -> Checker:
    name = " or ".join(dict.fromkeys(member.name for member in members))
    # An exact int must not become a float only because float stands first.
    ordered = sorted(members, key=lambda member: member.name in ("float", "a number"))

    def check(value: Any, path: str, problems: Problems) -> Any:
        closest: Problems | None = None
        for member in ordered:
            trial = Problems()
            trial.from_json = problems.from_json
            converted = member.check(value, path, trial)
            if not trial:
                return converted
            # A member that fails further in is the one that was meant.
            if closest is None and trial[0][0] != path:
                closest = trial
        if closest is None:
            problems.expect(path, name, value)
        else:
            problems.extend(closest)
        return value

    return Checker(name, {"anyOf": [member.schema for member in members]}, check)


def _literal(values: tuple[Any, ...]) -> Checker:
    name = "one of " + ", ".join(repr(value) for value in values)
    plain = [value.value if isinstance(value, enum.Enum) else value for value in values]

    def check(value: Any, path: str, problems: Problems) -> Any:
        for allowed, form in zip(values, plain, strict=True):
            if type(value) is type(form) and value == form:
                return allowed
        problems.append((path, f"expected {name}"))
        return value

    return Checker(name, {"enum": [None if isinstance(form, bytes) else form for form in plain]}, check)


def _sequence(make: Callable[[Any], Any], item: Checker) -> Checker:
    name = f"list of {item.name}" if item.schema else "list"

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is not list:
            problems.expect(path, name, value)
            return value
        if item.check is _any and make is list:
            return value
        converted = [item.check(entry, f"{path}[{index}]", problems) for index, entry in enumerate(value)]
        if problems:
            return value
        try:
            return make(converted)
        except TypeError:
            problems.append((path, f"expected {name} whose items can be in a set"))
            return value

    return Checker(name, {"type": "array", "items": item.schema}, check)


def _tuple(arguments: tuple[Any, ...], known: dict[Any, Checker]) -> Checker:
    if not arguments or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return _sequence(tuple, compile_hint(arguments[0] if arguments else Any, known))
    items = [] if arguments == ((),) else [compile_hint(argument, known) for argument in arguments]
    name = f"list of {len(items)}: {', '.join(item.name for item in items)}"

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is not list or len(value) != len(items):
            problems.expect(path, name, value)
            return value
        pairs = zip(items, value, strict=True)
        return tuple([item.check(entry, f"{path}[{i}]", problems) for i, (item, entry) in enumerate(pairs)])

    schema = {"type": "array", "prefixItems": [item.schema for item in items], "minItems": len(items), "items": False}
    return Checker(name, schema, check)


def _mapping(item: Checker) -> Checker:
    name = f"dict of {item.name}" if item.schema else "dict"

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.expect(path, name, value)
            return value
        if item.check is _any:
            return value
        return {key: item.check(entry, f"{path}.{key}", problems) for key, entry in value.items()}

    return Checker(name, {"type": "object", "additionalProperties": item.schema or True}, check)


def _enum(kind: type[enum.Enum]) -> Checker:
    name = "one of " + ", ".join(member.name for member in kind)
    by_name = kind.__members__

    def check(value: Any, path: str, problems: Problems) -> Any:
        if isinstance(value, (str, int, float, bytes)):
            for member in kind:
                if type(member.value) is type(value) and member.value == value:
                    return member
            if isinstance(value, str) and value in by_name:
                return by_name[value]
        problems.append((path, f"expected {name}"))
        return value

    return Checker(name, {"enum": [member.name for member in kind]}, check)


def _array(numpy: Any, arguments: tuple[Any, ...]) -> Checker:
    wanted = None
    if len(arguments) == 2 and get_args(arguments[1]):
        scalar = get_args(arguments[1])[0]
        if inspect.isclass(scalar) and scalar is not numpy.generic:
            wanted = scalar
    name = "array" if wanted is None else f"array of {wanted.__name__}"

    def check(value: Any, path: str, problems: Problems) -> Any:
        if problems.from_json and type(value) is list:
            try:
                value = numpy.array(value, dtype=wanted)
            except (TypeError, ValueError):
                problems.append((path, f"expected {name}, got a list that is none"))
                return value
        if not isinstance(value, numpy.ndarray):
            problems.expect(path, name, value)
        elif wanted is not None and not numpy.issubdtype(value.dtype, wanted):
            problems.append((path, f"expected {name}, got array of {value.dtype}"))
        return value

    return Checker(name, {"type": "array"}, check)


def _fields(
    name: str, kind: type, members: dict[str, tuple[Any, bool]], make: Callable[..., Any], known: dict[Any, Checker]
) -> Checker:
    """Return the checker of a class with named fields; `members` says the hint of each and whether it must be given."""
    if kind in known:
        return known[kind]
    compiled: dict[str, Checker] = {}

    def check(value: Any, path: str, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.expect(path, f"{name} as dict", value)
            return value
        before = len(problems)
        for key in value.keys() - compiled.keys():
            problems.append((f"{path}.{key}", f"{name} has no such field; it has {', '.join(compiled)}"))
        for key, (_, required) in members.items():
            if required and key not in value:
                problems.append((f"{path}.{key}", f"missing, expected {compiled[key].name}"))
        given = {k: compiled[k].check(v, f"{path}.{k}", problems) for k, v in value.items() if k in compiled}
        if len(problems) > before:
            return value
        try:
            return make(**given)
        except (TypeError, ValueError) as error:
            problems.append((path, f"{name}: {error}"))
            return value

    # The schema of a class inside itself stays open.
    checker = Checker(f"{name} as dict", {"type": "object"}, check)
    known[kind] = checker
    compiled.update({key: compile_hint(hint, known) for key, (hint, _) in members.items()})
    schema = {
        "type": "object",
        "properties": {key: item.schema for key, item in compiled.items()},
        "required": [key for key, (_, required) in members.items() if required],
        "additionalProperties": False,
    }
    return Checker(checker.name, schema, check)


def _dataclass(kind: Any, known: dict[Any, Checker]) -> Checker:
    hints = typing.get_type_hints(kind, include_extras=True)
    missing = dataclasses.MISSING
    members = {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
        if field.init
    }
    return _fields(kind.__name__, kind, members, kind, known)


def _typed_dict(kind: Any, known: dict[Any, Checker]) -> Checker:
    hints = typing.get_type_hints(kind, include_extras=True)
    members = {name: (hint, name in kind.__required_keys__) for name, hint in hints.items()}
    return _fields(kind.__name__, kind, members, dict, known)
