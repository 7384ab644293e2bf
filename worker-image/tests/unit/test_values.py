"""Values: what goes in comes out, and what cannot cross the wire says where and why."""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit import messages, values

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")) | st.binary()
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


def across(value: object) -> Any:
    return values.decode(messages.Value.FromString(values.encode(value).SerializeToString()))


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left):
            return math.isnan(right)
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    return type(left) is type(right) and bool(left == right)


@given(trees)
def test_round_trip(value: Any) -> None:
    assert same(across(value), value)


@given(st.integers(min_value=-(2**80), max_value=2**80) | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]))
def test_integers_of_any_size(value: int) -> None:
    assert across(value) == value
    assert values.encode(value).WhichOneof("kind") == ("integer" if -(2**63) <= value < 2**63 else "big_integer")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    name: str


@given(st.binary(max_size=300) | st.sampled_from([120, 124, 128, 16_380, 16_384, 2_097_152]).map(bytes))
def test_an_answer_written_by_hand_is_the_message(value: bytes) -> None:
    response = messages.ExecuteResponse()
    values.encode_into(value, response.result)
    assert values.encode_result(value) == response.SerializeToString()


def test_what_has_a_plain_form() -> None:
    assert across((1, 2)) == [1, 2]
    assert across({3}) == [3]
    assert across(bytearray(b"ab")) == b"ab"
    assert across(memoryview(b"ab")) == b"ab"
    assert across(Colour.RED) == "red"
    assert across(Point(1, "p")) == {"x": 1, "name": "p"}
    assert across(types.MappingProxyType({"a": 1})) == {"a": 1}
    assert across([]) == [] and across({}) == {}


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ({"a": [1, object()]}, "value.a[1]", "builtins.object"),
        ({1: 2}, "value", "keys must be str"),
        ("\ud800", "value", "surrogates"),
        ([{"a": {"\ud800": 1}}], "value[0].a", "surrogates"),
        ([lambda: None], "value[0]", "function"),
    ],
)
def test_what_has_none(value: object, path: str, problem: str) -> None:
    with pytest.raises(values.EncodeError, match=problem) as caught:
        values.encode(value)
    assert caught.value.path == path


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = {"k": value} if level % 2 else [value]
    return value


def test_depth() -> None:
    assert across(nested(values.MAX_DEPTH)) == nested(values.MAX_DEPTH)
    deepest: Any = 1
    for _ in range(values.MAX_DEPTH):
        deepest = {"k": deepest}
    request = messages.ExecuteRequest(tool="t")
    values.encode_into(deepest, request.arguments["a"], "a")
    parsed = messages.ExecuteRequest.FromString(request.SerializeToString())
    assert values.decode(parsed.arguments["a"]) == deepest, "the deepest value parses inside a request"
    with pytest.raises(values.EncodeError, match="deeper"):
        values.encode(nested(values.MAX_DEPTH + 1))
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(values.EncodeError, match="contains itself"):
        values.encode(itself)


def test_arrays_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(values.DecodeError, match="numpy is not installed"):
        values.decode(messages.Value(array={"dtype": "f8", "shape": [0]}))


def test_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    for dtype in ("u1", ">i4", "<f8", "c16", "b1", "M8[ns]"):
        array = numpy.arange(6).astype(dtype).reshape(2, 3) if dtype != "M8[ns]" else numpy.zeros((2, 3), dtype)
        back = across(array.T)
        assert back.shape == (3, 2) and (back == array.T).all()
        back[0, 0] = back[1, 1]
    assert across(numpy.float32(0.5)) == 0.5
    with pytest.raises(values.EncodeError):
        values.encode(numpy.array([object()]))
    with pytest.raises(values.DecodeError):
        values.decode(messages.Value(array={"dtype": "f8", "shape": [3], "data": b"x"}))
    with pytest.raises(values.DecodeError):
        values.decode(messages.Value(array={"dtype": "O", "shape": [1], "data": b"xxxxxxxx"}))


def test_json_numbers() -> None:
    struct = messages.Struct()
    struct.fields["whole"].number_value = 3
    struct.fields["half"].number_value = 0.5
    struct.fields["huge"].number_value = 1e300
    struct.fields["list"].list_value.values.add().null_value = 0
    struct.fields["map"].struct_value.fields["k"].bool_value = True
    assert values.from_struct(struct) == {"whole": 3, "half": 0.5, "huge": 1e300, "list": [None], "map": {"k": True}}
    assert isinstance(values.from_struct(struct)["whole"], int)
