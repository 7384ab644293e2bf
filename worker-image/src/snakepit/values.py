"""Python values to and from `snakepit.v1alpha1.Value`, for workers and clients. Nothing is ever pickled."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from snakepit import messages

# Levels of lists and maps in a value: Python's protobuf parses at most 100 nested messages, a map takes three.
MAX_DEPTH: Final = 32

_MIN_INT64: Final = -(1 << 63)
_MAX_INT64: Final = (1 << 63) - 1
_DTYPE: Final = re.compile(r"(b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[Mm]8(\[\w+\])?|[SU]\d+)\Z")


class WireValueError(TypeError):
    """Base of what goes wrong here; `path` says where in the value."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class EncodeError(WireValueError):
    """A Python value that has no form on the wire."""


class DecodeError(WireValueError):
    """A Value that breaks its rules."""


def encode(value: object, path: str = "value") -> Any:
    """Return `value` as a Value message; `path` names it in errors."""
    target = messages.Value()
    encode_into(value, target, path)
    return target


def encode_result(value: object) -> bytes:
    """Return an ExecuteResponse with this result.

    Bytes, whose answers are the large ones, are written by hand: a message would copy them twice. It is the same.
    """
    if type(value) is bytes:
        size = len(value)
        head = _DATA_TAG + _varint(size)
        return _RESULT_TAG + _varint(len(head) + size) + head + value
    response = messages.ExecuteResponse()
    encode_into(value, response.result, "result")
    encoded: bytes = response.SerializeToString()
    return encoded


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


_SMALL: Final = [bytes((number,)) for number in range(0x80)]


def _tag(message: Any, field: str) -> bytes:
    """Return the tag of a field with a length."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


_RESULT_TAG: Final = _tag(messages.ExecuteResponse, "result")
_DATA_TAG: Final = _tag(messages.Value, "data")


def encode_into(value: object, target: Any, path: str = "value", depth: int = 0) -> None:
    """Write `value` into the Value message `target`."""
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        encoder = _encode_other
    encoder(value, target, path, depth)


def _encode_none(value: object, target: Any, path: str, depth: int) -> None:
    target.null = 0


def _encode_bool(value: Any, target: Any, path: str, depth: int) -> None:
    target.boolean = value


def _encode_int(value: Any, target: Any, path: str, depth: int) -> None:
    if _MIN_INT64 <= value <= _MAX_INT64:
        target.integer = value
    else:
        size = value.bit_length() // 8 + 1
        target.big_integer = value.to_bytes(size, "little", signed=True)


def _encode_float(value: Any, target: Any, path: str, depth: int) -> None:
    target.number = value


def _encode_str(value: Any, target: Any, path: str, depth: int) -> None:
    try:
        target.text = value
    except (UnicodeEncodeError, ValueError):
        raise EncodeError(path, "text with lone surrogates is not valid Unicode; send bytes instead") from None


def _encode_bytes(value: Any, target: Any, path: str, depth: int) -> None:
    target.data = bytes(value)


def _encode_list(value: Any, target: Any, path: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise EncodeError(path, f"nested deeper than {MAX_DEPTH} levels (or it contains itself)")
    values = target.list.values
    if not value:
        target.list.SetInParent()
    for index, item in enumerate(value):
        encode_into(item, values.add(), f"{path}[{index}]", depth + 1)


def _encode_dict(value: Mapping[Any, Any], target: Any, path: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise EncodeError(path, f"nested deeper than {MAX_DEPTH} levels (or it contains itself)")
    fields = target.map.fields
    if not value:
        target.map.SetInParent()
    for key, item in value.items():
        if not isinstance(key, str):
            raise EncodeError(path, f"key {key!r:.60} is {type(key).__name__}; keys must be str")
        try:
            field = fields[key]
        except ValueError:
            raise EncodeError(path, f"key {key!a:.60} with lone surrogates is not valid Unicode") from None
        encode_into(item, field, f"{path}.{key}", depth + 1)


def _encode_other(value: object, target: Any, path: str, depth: int) -> None:
    """Encode subclasses, dataclasses, enums and what numpy has."""
    numpy = sys.modules.get("numpy")
    if isinstance(value, enum.Enum):
        encode_into(value.value, target, path, depth)
    elif numpy is not None and isinstance(value, numpy.ndarray):
        _encode_array(value, target, path)
    elif numpy is not None and isinstance(value, numpy.generic):
        plain = value.item()
        if type(plain) not in _ENCODERS:
            raise EncodeError(path, f"numpy scalar {type(value).__name__} has no plain form; return an array of it")
        encode_into(plain, target, path, depth)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        _encode_dict(named, target, path, depth)
    elif isinstance(value, Mapping):
        _encode_dict(value, target, path, depth)
    else:
        for base, encoder in _ENCODERS.items():
            if isinstance(value, base):
                encoder(value, target, path, depth)
                return
        raise EncodeError(
            path,
            f"{type(value).__module__}.{type(value).__qualname__} cannot cross the wire; "
            "use None, bool, int, float, str, bytes, list, dict, a dataclass or a numpy array",
        )


def _encode_array(value: Any, target: Any, path: str) -> None:
    name = value.dtype.str[1:]
    if value.dtype.hasobject or not _DTYPE.match(name):
        raise EncodeError(path, f"array of dtype {value.dtype} cannot cross the wire; convert it to numbers first")
    if value.dtype.byteorder == ">" or (value.dtype.byteorder == "=" and sys.byteorder == "big"):
        value = value.astype(value.dtype.newbyteorder("<"))
    target.array.dtype = name
    target.array.shape.extend(value.shape)
    target.array.data = value.tobytes(order="C")


_Encoder = Callable[[Any, Any, str, int], None]
_ENCODERS: Final[dict[type, _Encoder]] = {
    type(None): _encode_none,
    bool: _encode_bool,
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    bytes: _encode_bytes,
    bytearray: _encode_bytes,
    memoryview: _encode_bytes,
    list: _encode_list,
    tuple: _encode_list,
    dict: _encode_dict,
    set: _encode_list,
    frozenset: _encode_list,
}


def decode(message: Any, path: str = "value", depth: int = 0) -> Any:
    """Return the Python value of a Value message; `path` names it in errors."""
    kind = message.WhichOneof("kind")
    if kind in _PLAIN:
        return getattr(message, kind)
    if kind is None or kind == "null":
        return None
    if kind == "big_integer":
        return int.from_bytes(message.big_integer, "little", signed=True)
    if kind == "array":
        return _decode_array(message.array, path)
    if depth >= MAX_DEPTH:
        raise DecodeError(path, f"nested deeper than {MAX_DEPTH} levels")
    if kind == "list":
        return [decode(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(message.list.values)]
    return {key: decode(item, f"{path}.{key}", depth + 1) for key, item in message.map.fields.items()}


_PLAIN: Final = frozenset(("integer", "text", "data", "number", "boolean"))


def _decode_array(array: Any, path: str) -> Any:
    try:
        import numpy
    except ImportError:
        raise DecodeError(path, "an array, but numpy is not installed here") from None
    if not _DTYPE.match(array.dtype):
        raise DecodeError(path, f"array of unknown dtype {array.dtype!r:.40}")
    dtype = numpy.dtype("<" + array.dtype)
    shape = tuple(array.shape)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(array.data):
        raise DecodeError(path, f"array of shape {shape} and dtype {array.dtype} does not have {len(array.data)} bytes")
    # From a bytearray, because an array on bytes could not be written to.
    return numpy.frombuffer(bytearray(array.data), dtype=dtype).reshape(shape)


def from_struct(struct: Any) -> dict[str, Any]:
    """Return a google.protobuf.Struct as plain JSON values; whole numbers become int, as json.loads would give."""
    return {key: _from_json(value, key, 0) for key, value in struct.fields.items()}


def _from_json(message: Any, path: str, depth: int) -> Any:
    kind = message.WhichOneof("kind")
    if kind == "number_value":
        number = message.number_value
        whole = number.is_integer() and abs(number) <= 1 << 53
        return int(number) if whole else number
    if kind in ("string_value", "bool_value"):
        return getattr(message, kind)
    if kind is None or kind == "null_value":
        return None
    if depth >= MAX_DEPTH:
        raise DecodeError(path, f"nested deeper than {MAX_DEPTH} levels")
    if kind == "list_value":
        return [_from_json(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(message.list_value.values)]
    return {key: _from_json(item, f"{path}.{key}", depth + 1) for key, item in message.struct_value.fields.items()}
