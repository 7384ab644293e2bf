"""Declarations and type hints: what is accepted, converted, refused, and how it is said."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit import Adapter, Context, messages, tool, values
from snakepit.adapter import RESERVED, ToolOptions
from snakepit.worker.execution import Tool
from snakepit.worker.failure import BadArgumentsError, DeclarationError
from snakepit.worker.hints import Problems, UnsupportedHintError, compile_hint
from snakepit.worker.tools import ThreadSafetyNotDeclared, check_declarations, instantiate, slot_count

UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclasses.dataclass
class Node:
    name: str
    children: list[Node] = dataclasses.field(default_factory=list)


class Options(TypedDict, total=False):
    depth: int


def check(hint: Any, value: Any, from_json: bool = False) -> Any:
    problems = Problems()
    problems.from_json = from_json
    converted = compile_hint(hint).check(value, "a", problems)
    return list(problems) or converted


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (bool, True, True),
        (Any, [1, {"a": 2}], [1, {"a": 2}]),
        (list, [1, "x"], [1, "x"]),
        (list[int], [1, 2], [1, 2]),
        (Sequence[float], [1, 2.5], [1.0, 2.5]),
        (set[int], [1, 1], {1}),
        (tuple[int, str], [1, "x"], (1, "x")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Optional[int], None, None),  # noqa: UP045
        (int | str, "x", "x"),
        (float | int, 3, 3),
        (Literal["a", 2], 2, 2),
        (Colour, "red", Colour.RED),
        (Colour, "BLUE", Colour.BLUE),
        (Colour, 2, Colour.BLUE),
        (UserId, 7, 7),
        (Annotated[int, "units"], 7, 7),
        (bytes, b"x", b"x"),
        (bytearray, b"x", bytearray(b"x")),
        (Node, {"name": "a", "children": [{"name": "b"}]}, Node("a", [Node("b")])),
        (Options, {"depth": 2}, {"depth": 2}),
        (Options, {}, {}),
    ],
)
def test_accepted(hint: Any, value: Any, expected: Any) -> None:
    got = check(hint, value)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "problems"),
    [
        (int, True, [("a", "expected int, got bool")]),
        (int, 3.0, [("a", "expected int, got float")]),
        (float, "3", [("a", "expected float, got str")]),
        (str, None, [("a", "expected str, got None")]),
        (list[int], [1, "x", None], [("a[1]", "expected int, got str"), ("a[2]", "expected int, got None")]),
        (dict[str, list[int]], {"k": ["x"]}, [("a.k[0]", "expected int, got str")]),
        (tuple[int, str], [1], [("a", "expected list of 2: int, str, got list")]),
        (Literal["a", 2], "b", [("a", "expected one of 'a', 2")]),
        (Colour, "green", [("a", "expected one of RED, BLUE")]),
        (int | None, "x", [("a", "expected int or None, got str")]),
        (list[int] | None, ["x"], [("a[0]", "expected int, got str")]),
        (Node, {"name": 1, "size": 2}, [
            ("a.size", "Node has no such field; it has name, children"), ("a.name", "expected str, got int"),
        ]),
        (Node, {}, [("a.name", "missing, expected str")]),
        (Node, {"name": "a", "children": [{}]}, [("a.children[0].name", "missing, expected str")]),
        (bytes, "text", [("a", "expected bytes, got str")]),
    ],
)  # fmt: skip
def test_refused(hint: Any, value: Any, problems: list[tuple[str, str]]) -> None:
    assert check(hint, value) == problems


@given(st.binary(max_size=50))
def test_bytes_in_json_are_base64(data: bytes) -> None:
    assert check(bytes, base64.b64encode(data).decode(), from_json=True) == data
    assert check(bytes | None, base64.b64encode(data).decode(), from_json=True) == data
    assert check(bytes, "not base64!", from_json=True) == [
        ("a", "expected bytes as base64 text, got text that is not base64")
    ]


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_value_is_converted_or_refused_never_an_exception(value: Any) -> None:
    for hint in (int, list[int], dict[str, bytes], Node, Options, Colour, tuple[int, ...], int | list[str], set[int]):
        check(hint, value)


@pytest.mark.parametrize("hint", [dict[int, str], complex | type, Iterator[int], object.__class__])
def test_unsupported_hints(hint: Any) -> None:
    with pytest.raises(UnsupportedHintError):
        compile_hint(hint)


def test_numpy_hints() -> None:
    numpy = pytest.importorskip("numpy")
    hint = numpy.typing.NDArray[numpy.float64] if hasattr(numpy, "typing") else numpy.ndarray
    assert check(numpy.ndarray, 3) == [("a", "expected array, got int")]
    assert (check(hint, [1, 2], from_json=True) == numpy.array([1.0, 2.0])).all()


class Good(Adapter):
    @tool
    def every(self, a: int, ctx: Context, b: str = "x", *, c: float = 1.0, **more: int) -> list[object]:
        """Do it all.

        Not part of the description.
        """
        return [a, b, c, more, ctx]

    @tool
    def plain(self, who: Context, ctx: int = 1) -> None:
        """An annotated context under another name is found too."""


def request(**arguments: Any) -> Any:
    message = messages.ExecuteRequest(tool="t")
    for name, value in arguments.items():
        values.encode_into(value, message.arguments[name], name)
    return message


def test_methods_stay_plain_functions() -> None:
    assert Good().every(1, None, more_than=2) == [1, "x", 1.0, {"more_than": 2}, None]  # type: ignore[arg-type]


def test_binding() -> None:
    every = instantiate(Good, []).tools[0]
    assert every.bind(request(a=1)) == {"a": 1}
    assert every.bind(request(a=1, c=2, other=5)) == {"a": 1, "c": 2.0, "other": 5}
    with pytest.raises(BadArgumentsError) as caught:
        every.bind(request(other="x"))
    assert caught.value.violations == [("other", "expected int, got str"), ("a", "missing, expected int")]
    assert every.bind(request(a=1)) == {"a": 1}, "an error leaves nothing behind"
    assert every.description() == "Do it all."
    schema = json.loads(every.parameters_schema())
    assert schema["required"] == ["a"] and list(schema["properties"]) == ["a", "b", "c"]
    assert schema["additionalProperties"] == {"type": "integer"}


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        tool(name=name)(lambda self: None)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a" * 129, ".a", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="tool name"):
        tool(name=name)(lambda self: None)


@pytest.mark.parametrize(
    "errors", [{KeyError: "NOPE"}, {KeyError: "OK"}, {"KeyError": "NOT_FOUND"}, {int: "NOT_FOUND"}]
)
def test_bad_error_tables(errors: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="errors"):
        tool(name="f", errors=errors)(lambda self: None)


def test_decorator_order() -> None:
    with pytest.raises(TypeError, match="above @tool"):
        tool(staticmethod(lambda: None))  # type: ignore[type-var]


def declared(function: Any) -> type:
    return type("App", (), {"f": tool(name="f")(function)})


def positional_only(self: object, a: int, /) -> None: ...
def variadic(self: object, *a: int) -> None: ...
def no_self() -> None: ...
def strange(self: object, a: Iterator[int]) -> None: ...
def undefined(self: object, a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (positional_only, "positional-only"),
        (variadic, "use a list"),
        (no_self, "needs self"),
        (strange, "cannot cross the wire"),
        (undefined, "'Missing'"),
    ],
)
def test_declarations_that_no_call_could_use(function: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem) as caught:
        check_declarations(declared(function))
    assert caught.value.file.endswith("test_tools.py") and caught.value.line > 0


def test_counts_and_duplicates() -> None:
    with pytest.raises(DeclarationError, match="declares no tool"):
        check_declarations(type("App", (), {}))
    many = {f"t{n}": tool(name=f"t{n}")(lambda self: None) for n in range(257)}
    with pytest.raises(DeclarationError, match="257 tools"):
        check_declarations(type("App", (), many))
    twice = type("App", (), {n: tool(name="same")(lambda self: None) for n in ("a", "b")})
    with pytest.raises(DeclarationError, match="twice"):
        instantiate(twice, [])


def test_arguments_of_the_pool() -> None:
    with pytest.raises(TypeError, match="does not take the pool's args"):
        instantiate(Good, ["x"])


def test_an_open_schema_when_it_would_be_too_long() -> None:
    wide = Literal[tuple(f"value-{n}" for n in range(3000))]  # type: ignore[valid-type]

    def choose(a: wide) -> None: ...

    choose.__annotations__["a"] = wide
    options = tool(name="choose")(choose)
    assert Tool(options.__snakepit_tool__, choose).parameters_schema() == '{"type":"object"}'  # type: ignore[attr-defined]


def test_arguments_of_calls_that_overlap_do_not_mix() -> None:
    refused = []

    @dataclasses.dataclass
    class Nested:
        name: str

        def __post_init__(self) -> None:
            # As another thread would, in the middle of this conversion.
            try:
                binder.bind(messages.ExecuteRequest())
            except BadArgumentsError as error:
                refused.append(error)

    def function(nested: Any) -> None: ...

    function.__annotations__["nested"] = Nested
    binder = Tool(ToolOptions("function"), function)
    request = messages.ExecuteRequest()
    values.encode_into({"name": "x"}, request.arguments["nested"])
    assert binder.bind(request) == {"nested": Nested("x")}
    assert refused


@pytest.mark.parametrize("text", ["0", "257", "x", "-1", "1.5", "٣"])
def test_a_wrong_number_of_slots_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_SLOTS", text)
    with pytest.raises(ValueError, match="SNAKEPIT_SLOTS"):
        slot_count()


def test_profile_thread_needs_a_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_SLOTS", "2")
    with pytest.raises(ThreadSafetyNotDeclared, match="thread_safe = True in Good"):
        check_declarations(Good)
    monkeypatch.setattr(Good, "thread_safe", True)
    assert instantiate(Good, []).thread_safe


class Server:
    """What a worker sees of `snakepit.server()`."""

    def __init__(self, *paths: str) -> None:
        self.methods = [types.SimpleNamespace(path=path) for path in paths]
        self.file_descriptors: list[bytes] = []
        self.thread_safe = False

    methods: Any = ()

    def add_generic_rpc_handlers(self, handlers: Any) -> None: ...


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (Server(), "serves no method"),
        (Server("/a.B/c", "/a.B/c"), "each once"),
        (Server(*(f"/a.B/m{i}" for i in range(1025))), "at most 1024"),
        (Server("a.B/c"), "is not /package"),
        (Server("/" + "a" * 256 + "/c"), "is not /package"),
        (type("Plain", (), {"add_generic_rpc_handlers": None})(), "snakepit.server()"),
    ],
)
def test_servers_that_cannot_be_served(server: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem.replace("(", r"\(").replace(")", r"\)")):
        check_declarations(server)
    with pytest.raises(DeclarationError):
        instantiate(server, [])


def test_interruptible_is_for_plain_functions() -> None:
    async def waits() -> None: ...

    with pytest.raises(TypeError, match="plain functions"):
        tool(interruptible=True)(waits)
