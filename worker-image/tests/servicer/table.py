"""The calls that are made against grpcio's own servers and against ours."""

from __future__ import annotations

from typing import Any

import cases_pb2
import grpc

from servicer.observe import Call

SCRIPTS = "Ünïcödé 数据 данные بيانات डेटा 🐍 %20 \t\n end"


def ask(case: str, *words: str, number: int = 0, data: bytes = b"") -> Any:
    return cases_pb2.Ask(case=case, words=words, number=number, data=data)


def one(case: str, *words: str, **more: Any) -> Call:
    number, data = more.pop("number", 0), more.pop("data", b"")
    return Call("One", [ask(case, *words, number=number, data=data)], **more)


def many(case: str, *words: str, number: int = 0, **more: Any) -> Call:
    return Call("Many", [ask(case, *words, number=number, data=more.pop("data", b""))], **more)


def several(method: str, case: str, *words: str, count: int = 3, **more: Any) -> Call:
    return Call(method, [ask(case, *words, number=n + 1) for n in range(count)], **more)


_BINARY = (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff"), ("x-b-bin", b""), ("x-c", "a, b;c=d"), ("x-a", "3"))
_ALL_CODES = [code.name for code in grpc.StatusCode]
_GARBAGE = b"\xff\xff\xff"
_TRANSPORT = {"details": "the words of the transport that is first to notice"}
_UNKNOWN = dict.fromkeys(("details", "trailing"), "the router names the nearest methods")
_HANGS = "grpcio sends no status: the caller waits until its deadline"

BOTH: dict[str, Call] = {
    "echo": one("echo", "a", "b", number=-5, data=bytes(range(256))),
    "echo, as unary": one("echo", "a", number=1, unary=True),
    "empty response": one("empty"),
    "empty request": Call("One", [b""]),
    "100 KiB": one("echo", data=b"x" * 100_000),
    "status message in any script": one("code_and_details", "INVALID_ARGUMENT", SCRIPTS),
    "status message of 2 KiB": one("code_and_details", "INTERNAL", "long " * 400),
    "code without details": one("code", "NOT_FOUND"),
    "code without details, as unary": one("code", "NOT_FOUND", unary=True),
    "code as integer": one("code", "seven"),
    "code as text": one("code", "text"),
    "code as impossible integer": one("code", "99"),
    "details without a code": one("details", "said"),
    "details of the wrong type": one("details_of_wrong_type"),
    "abort in any script": one("abort", "FAILED_PRECONDITION", SCRIPTS),
    "abort without details": one("abort", "ABORTED", ""),
    "abort with code as integer": one("abort", "seven", "x"),
    "abort with details None": one("details_none"),
    "abort, swallowed": one("abort_swallowed", "NOT_FOUND"),
    "abort, then another exception": one("abort_then_raise", "NOT_FOUND"),
    "abort with status": one("abort_with_status", "PERMISSION_DENIED", "no"),
    "abort after initial metadata": one("abort_with_trailing", "UNAVAILABLE"),
    "exception": one("raise", "boom"),
    "exception, as unary": one("raise", "boom", unary=True),
    "exception in any script": one("raise", SCRIPTS),
    "exception without text": one("raise", ""),
    "exception with a code": one("raise_with_code", "ALREADY_EXISTS"),
    "exception with details": one("raise_with_details"),
    "KeyError": one("raise_key_error"),
    "unknown case: AttributeError": one("no_such_case"),
    "None returned": one("none"),
    "a text returned": one("wrong_type"),
    "another message returned": one("other_message"),
    "initial metadata twice": one("initial_twice"),
    "metadata, repeated and binary": one("metadata", metadata=_BINARY),
    "metadata of 4 KiB": one("metadata", metadata=(("x-a", "v" * 4000),)),
    "state of the context": one("state"),
    "who calls": one("caller"),
    "time remaining": one("remaining", number=21, timeout=20),
    "compression set": one("compression"),
    "callback at the end": one("callback", "EVENT", noticed=True),
    "gzip from the caller": one("echo", data=bytes(50_000), compression=grpc.Compression.Gzip),
    "deflate from the caller": one("echo", data=bytes(50_000), compression=grpc.Compression.Deflate),
    "the caller cancels": one("sleep", "EVENT", cancel_after=-1, noticed=True),
    "the deadline passes": one("sleep", "EVENT", timeout=0.5, noticed=True, differs=_TRANSPORT),
    "undecodable request": Call("One", [_GARBAGE]),
    "undecodable request of a stream": Call("Many", [_GARBAGE]),
    "unknown method": Call("Nothing", [b""], differs=_UNKNOWN),
    "no messages": many("count", number=0),
    "many messages": many("count", number=100),
    "messages of 1 MiB": many("count", number=4, data=bytes(1 << 20)),
    "stream with metadata": many("with_metadata"),
    "stream, initial metadata too late": many("late_initial"),
    "stream, abort": many("abort"),
    "stream, abort at once": many("abort_at_once"),
    "stream, exception": many("raise"),
    "stream, exception at once": many("raise_at_once"),
    "stream, wrong type": many("wrong_type"),
    "stream, the caller cancels": many("forever", "EVENT", cancel_after=3, noticed=True),
    "sum": several("Sum", "all", count=20),
    "sum of one": several("Sum", "all", count=1),
    "sum of nothing": Call("Sum", []),
    "sum, early answer": several("Sum", "early", count=5, hold=True),
    "sum, abort": several("Sum", "abort", hold=True),
    "sum, exception": several("Sum", "raise", hold=True),
    "sum, undecodable second request": Call("Sum", [ask("all", number=1), _GARBAGE]),
    "sum, the caller cancels": several("Sum", "wait", "EVENT", count=2, hold=True, cancel_after=-1, noticed=True),
    "chat": several("Chat", "echo", count=30),
    "chat, message by message": several("Chat", "echo", count=5, paced=True),
    "chat, backwards": several("Chat", "backwards", count=5),
    "chat of nothing": Call("Chat", []),
    "chat, early end": several("Chat", "early", hold=True),
    "chat, abort": several("Chat", "abort", hold=True),
}
BOTH |= {f"initial metadata: {kind}": one("initial", kind) for kind in ("good", "bytes", "spaces", "lists", "upper")}
BOTH |= {f"initial metadata: {kind}": one("initial", kind) for kind in ("newline", "umlaut", "empty", "not-bytes")}
BOTH |= {f"initial metadata: {kind}": one("initial", kind) for kind in ("number", "reserved")}
BOTH |= {
    f"trailing metadata: {kind}": one("trailing", kind) for kind in ("good", "bytes", "spaces", "upper", "newline")
}
BOTH |= {f"trailing metadata: {kind}": one("trailing", kind) for kind in ("umlaut", "empty", "reserved")}
BOTH |= {f"code {name}": one("code_and_details", name, "said") for name in _ALL_CODES}
BOTH |= {f"abort with {name}": one("abort", name, "said") for name in _ALL_CODES}

PLAIN: dict[str, Call] = BOTH | {
    "unprintable exception": one("raise_unprintable"),
    "abort with code as text": one("abort", "text", "x"),
    "trailing metadata: lists": one("trailing", "lists"),
    "trailing metadata: none": one("trailing", "none"),
    "no request": Call("One", [], differs={"details": "grpcio calls a registered method by the name b''"}),
    "two requests": Call("One", [ask("echo", "first"), ask("echo", "second")]),
    "callback on cancel": one("wait_for_callback", "EVENT", cancel_after=-1, noticed=True),
    "callback at the deadline": one("wait_for_callback", "EVENT", timeout=0.5, noticed=True, differs=_TRANSPORT),
    "the handler cancels": one("cancel", differs=_TRANSPORT),
    "contextvars": one("contextvar"),
    "time remaining without a deadline": one("remaining", number=10**18),
    "stream, None": many("none"),
    "stream, an iterator": many("iterator"),
    "stream, a list": many("list"),
    "stream, no iterator": many("no_iterator"),
    "chat, read in a thread": several("Chat", "own_thread", count=2, paced=True),
    "chat, a thread still reads at the end": several("Chat", "abandoned_thread", count=1, hold=True),
}

COROUTINES: dict[str, Call] = BOTH | {
    "abort twice": one("abort_twice", "ABORTED"),
    "abort keeps details": one("abort_keeps_details", "ABORTED"),
    "trailing metadata: lists": one("trailing", "lists"),
    "trailing metadata: number": one("trailing", "number"),
    "two requests": Call("One", [ask("echo", "first"), ask("echo", "second")]),
    "read in a unary method": one("read"),
    "written": Call("Written", [ask("count", number=50)]),
    "written, abort": Call("Written", [ask("abort")]),
    "written, exception": Call("Written", [ask("raise")]),
    "written, with metadata": Call("Written", [ask("with_metadata")]),
    "written, the caller cancels": Call("Written", [ask("forever", "EVENT")], cancel_after=3, noticed=True),
    "read and written": several("ReadAndWrite", "echo", count=10),
    "read and written, message by message": several("ReadAndWrite", "echo", count=5, paced=True),
    "read and written at once": several("ReadAndWrite", "at_once", count=2, paced=True),
    "a task still reads at the end": several("ReadAndWrite", "abandoned", count=1, hold=True),
    "written after abort": several("ReadAndWrite", "after_abort", count=1),
    "nothing to read": Call("ReadAndWrite", []),
    "abort with OK": one("abort", "OK", "said", timeout=1, differs={"code": _HANGS, "details": _HANGS}),
}
