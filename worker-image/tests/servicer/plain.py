"""The servicer of plain functions. Each case is one method; its name is in the request."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cases_pb2
import cases_pb2_grpc
import grpc

Reply = cases_pb2.Reply
WAIT = 20.0

# What cases leave behind for a later call to look at.
events: dict[str, threading.Event] = {}
meeting = threading.Barrier(4)
seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class TrailingStatus(grpc.Status):
    def __init__(self, code: Any, details: str, trailing_metadata: Any) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata


METADATA = {
    "good": (("x-a", "1"), ("x-a", "2"), ("x-raw-bin", bytes(range(256))), ("x-empty", ""), ("x-raw-bin", b"")),
    "bytes": (("x-a", b"text"),),
    "spaces": (("x-a", "a b, c"),),
    "lists": [["x-a", "1"]],
    "upper": (("Bad", "x"),),
    "newline": (("x-a", "a\nb"),),
    "umlaut": (("x-a", "ü"),),
    "empty": (("", "x"),),
    "not-bytes": (("x-a-bin", "text"),),
    "number": (("x-a", 1),),
    "reserved": (("te", "trailers"), ("content-type", "x"), ("x-a", "1")),
    "none": None,
}
CODES: dict[str, Any] = {code.name: code for code in grpc.StatusCode} | {"seven": 7, "text": "NOT_FOUND", "99": 99}


def code_of(ask: Any) -> Any:
    return CODES[ask.words[0]]


def event(name: str) -> threading.Event:
    return events.setdefault(name, threading.Event())


class Plain(cases_pb2_grpc.PlainServicer):
    def One(self, ask: Any, context: Any) -> Any:
        return getattr(self, "one_" + ask.case)(ask, context)

    Lookup = One

    def Many(self, ask: Any, context: Any) -> Any:
        return getattr(self, "many_" + ask.case)(ask, context)

    def Sum(self, asks: Any, context: Any) -> Any:
        first = next(asks, None)
        return getattr(self, "sum_" + (first.case if first else "nothing"))(first, asks, context)

    def Chat(self, asks: Any, context: Any) -> Any:
        first = next(asks, None)
        return getattr(self, "chat_" + (first.case if first else "nothing"))(first, asks, context)

    # One request, one response.

    def one_echo(self, ask: Any, context: Any) -> Any:
        return Reply(text=ask.case, number=ask.number, data=ask.data, words=ask.words)

    def one_empty(self, ask: Any, context: Any) -> Any:
        return Reply()

    def one_code(self, ask: Any, context: Any) -> Any:
        context.set_code(code_of(ask))
        return Reply(text="dropped")

    def one_details(self, ask: Any, context: Any) -> Any:
        context.set_details(ask.words[0])
        return Reply(text="details without a code")

    def one_code_and_details(self, ask: Any, context: Any) -> Any:
        context.set_code(code_of(ask))
        context.set_details(ask.words[1])
        return Reply(text="dropped")

    def one_details_of_wrong_type(self, ask: Any, context: Any) -> Any:
        context.set_details(7)
        return Reply()

    def one_details_none(self, ask: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.NOT_FOUND, None)

    def one_abort(self, ask: Any, context: Any) -> Any:
        context.abort(code_of(ask), ask.words[1])

    def one_abort_swallowed(self, ask: Any, context: Any) -> Any:
        try:
            context.abort(code_of(ask), "first")
        except Exception:
            return Reply(text="swallowed")

    def one_abort_then_raise(self, ask: Any, context: Any) -> Any:
        try:
            context.abort(code_of(ask), "first")
        except Exception:
            raise ValueError("second") from None

    def one_abort_with_status(self, ask: Any, context: Any) -> Any:
        context.set_trailing_metadata((("x-before", "1"),))
        context.abort_with_status(TrailingStatus(code_of(ask), ask.words[1], METADATA["good"]))

    def one_abort_with_trailing(self, ask: Any, context: Any) -> Any:
        context.set_trailing_metadata(METADATA["good"])
        context.send_initial_metadata((("x-first", "1"),))
        context.abort(code_of(ask), "with metadata")

    def one_raise(self, ask: Any, context: Any) -> Any:
        raise ValueError(ask.words[0])

    def one_raise_with_code(self, ask: Any, context: Any) -> Any:
        context.set_code(code_of(ask))
        context.set_trailing_metadata((("x-a", "1"),))
        raise ValueError("with a code")

    def one_raise_with_details(self, ask: Any, context: Any) -> Any:
        context.set_details("set before")
        raise ValueError("not shown")

    def one_raise_unprintable(self, ask: Any, context: Any) -> Any:
        raise UnprintableError

    def one_raise_key_error(self, ask: Any, context: Any) -> Any:
        return {}["missing"]

    def one_exit(self, ask: Any, context: Any) -> Any:
        sys.exit(3)

    def one_none(self, ask: Any, context: Any) -> Any:
        return None

    def one_wrong_type(self, ask: Any, context: Any) -> Any:
        return "text"

    def one_other_message(self, ask: Any, context: Any) -> Any:
        return ask

    def one_initial(self, ask: Any, context: Any) -> Any:
        context.send_initial_metadata(METADATA[ask.words[0]])
        return Reply(text="sent")

    def one_initial_twice(self, ask: Any, context: Any) -> Any:
        context.send_initial_metadata((("x-a", "1"),))
        context.send_initial_metadata((("x-a", "2"),))
        return Reply(text="not reached")

    def one_trailing(self, ask: Any, context: Any) -> Any:
        context.set_trailing_metadata(METADATA[ask.words[0]])
        return Reply(text="set")

    def one_metadata(self, ask: Any, context: Any) -> Any:
        """Send back what came, as initial and as trailing metadata; HTTP/2 keeps the order of one key's values only."""
        came = [(m.key, m.value) for m in context.invocation_metadata() if m.key.startswith("x-")]
        came.sort(key=lambda pair: pair[0])
        context.send_initial_metadata(came)
        context.set_trailing_metadata(tuple((f"t-{key}", value) for key, value in came))
        return Reply(words=[repr(pair) for pair in came])

    def one_state(self, ask: Any, context: Any) -> Any:
        before = [context.code(), context.details(), context.trailing_metadata(), context.is_active()]
        context.set_code(grpc.StatusCode.OK)
        context.set_details("said")
        context.set_trailing_metadata((("x-a", "1"),))
        after = [context.code(), context.details(), context.trailing_metadata(), context.is_active()]
        return Reply(words=[repr(value) for value in before + after])

    def one_caller(self, ask: Any, context: Any) -> Any:
        known = [context.peer().partition(":")[0], context.peer_identities(), context.peer_identity_key()]
        known += sorted(context.auth_context().items())
        known += [value for key, value in context.invocation_metadata() if key == "user-agent"]
        return Reply(words=[repr(value) for value in known])

    def one_remaining(self, ask: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        return Reply(words=[type(remaining).__name__, str(0 < remaining <= ask.number)])

    def one_compression(self, ask: Any, context: Any) -> Any:
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        return Reply(data=bytes(10_000))

    def one_contextvar(self, ask: Any, context: Any) -> Any:
        before = seen.get()
        seen.set("set by a call")
        return Reply(text=before)

    def one_sleep(self, ask: Any, context: Any) -> Any:
        context.send_initial_metadata((("x-begun", "1"),))
        while context.is_active():
            time.sleep(0.005)
        event(ask.words[0]).set()
        return Reply(text="too late")

    def one_wait_for_callback(self, ask: Any, context: Any) -> Any:
        ended = threading.Event()
        added = context.add_callback(ended.set)
        context.send_initial_metadata((("x-begun", str(added)),))
        if ended.wait(WAIT):
            event(ask.words[0]).set()
        return Reply(text="too late")

    def one_callback(self, ask: Any, context: Any) -> Any:
        context.add_callback(event(ask.words[0]).set)
        context.add_callback(lambda: 1 / 0)
        return Reply()

    def one_was_set(self, ask: Any, context: Any) -> Any:
        return Reply(text=str(event(ask.words[0]).wait(WAIT)))

    def one_cancel(self, ask: Any, context: Any) -> Any:
        context.cancel()
        return Reply(text="cancelled")

    def one_threads(self, ask: Any, context: Any) -> Any:
        """Say which threads the kernel knows, and how many of them Python knows."""
        tasks = os.listdir("/proc/self/task")
        names = sorted(Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in tasks)
        return Reply(number=threading.active_count(), words=names)

    def one_session(self, ask: Any, context: Any) -> Any:
        if context.session is None:
            return Reply(text="none")
        context.session.state.count = context.session.state.get("count", 0) + 1
        words = [context.session.state.started, context.worker.name, str(bool(context.request_id))]
        return Reply(text=context.session.name, number=context.session.state.count, words=words)

    def one_meet(self, ask: Any, context: Any) -> Any:
        """Return once as many calls are here as the barrier waits for."""
        meeting.wait(WAIT)
        return Reply(text="met")

    # One request, many responses.

    def many_count(self, ask: Any, context: Any) -> Any:
        for number in range(ask.number):
            yield Reply(number=number, data=ask.data)

    def many_with_metadata(self, ask: Any, context: Any) -> Any:
        context.send_initial_metadata(METADATA["good"])
        yield Reply(number=1)
        context.set_trailing_metadata(METADATA["good"])
        yield Reply(number=2)
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("at the end")

    def many_late_initial(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        context.send_initial_metadata((("x-a", "1"),))

    def many_abort(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        yield Reply(number=2)
        context.abort(grpc.StatusCode.ABORTED, "mid-stream")

    def many_abort_at_once(self, ask: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.ABORTED, "before the first")
        yield Reply()

    def many_raise(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        raise ValueError("mid-stream")

    def many_none(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        yield None
        yield Reply(number=3)

    def many_wrong_type(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        yield "text"
        yield Reply(number=3)

    def many_iterator(self, ask: Any, context: Any) -> Any:
        return iter([Reply(number=1), Reply(number=2)])

    def many_list(self, ask: Any, context: Any) -> Any:
        return [Reply(number=1)]

    def many_no_iterator(self, ask: Any, context: Any) -> Any:
        return None

    def many_raise_at_once(self, ask: Any, context: Any) -> Any:
        if ask.case:
            raise KeyError("no generator")
        yield Reply()

    def many_forever(self, ask: Any, context: Any) -> Any:
        number = 0
        try:
            while True:
                yield Reply(number=number)
                number += 1
        finally:
            event(ask.words[0]).set()

    # Many requests, one response.

    def sum_nothing(self, first: Any, asks: Any, context: Any) -> Any:
        return Reply(text="no request")

    def sum_all(self, first: Any, asks: Any, context: Any) -> Any:
        rest = list(asks)
        return Reply(number=sum(ask.number for ask in rest) + first.number, words=[str(len(rest) + 1)])

    def sum_early(self, first: Any, asks: Any, context: Any) -> Any:
        return Reply(number=next(asks).number)

    def sum_abort(self, first: Any, asks: Any, context: Any) -> Any:
        next(asks)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "enough")

    def sum_raise(self, first: Any, asks: Any, context: Any) -> Any:
        next(asks)
        raise ValueError("enough")

    def sum_wait(self, first: Any, asks: Any, context: Any) -> Any:
        context.send_initial_metadata((("x-begun", "1"),))
        try:
            for _ in asks:
                pass
        finally:
            # grpcio shows a cancel as the end of the requests or as RpcError, whatever comes first.
            event(first.words[0]).set()
        return Reply(text="ended")

    # Many requests, many responses.

    def chat_nothing(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(text="no request")

    def chat_echo(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(number=first.number, data=first.data)
        for ask in asks:
            yield Reply(number=ask.number, data=ask.data)

    def chat_backwards(self, first: Any, asks: Any, context: Any) -> Any:
        for ask in reversed([first, *asks]):
            yield Reply(number=ask.number)

    def chat_early(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(number=first.number)
        context.set_code(grpc.StatusCode.CANCELLED)
        context.set_details("by the handler")

    def chat_abort(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(number=1)
        context.abort(grpc.StatusCode.DATA_LOSS, "数据丢失")

    def chat_own_thread(self, first: Any, asks: Any, context: Any) -> Any:
        """Read in a thread of the handler's own, while responses go out."""
        got: list[int] = []
        first_read = threading.Event()
        read = threading.Event()

        def reading() -> None:
            for ask in asks:
                got.append(ask.number)
                first_read.set()
            read.set()

        thread = threading.Thread(target=reading, daemon=True)
        thread.start()
        yield Reply(text="reads")
        first_read.wait(WAIT)
        yield Reply(text="has read")
        read.wait(WAIT)
        yield Reply(words=[str(number) for number in got])

    def chat_abandoned_thread(self, first: Any, asks: Any, context: Any) -> Any:
        """End while a thread of the handler's own still waits for requests."""
        threading.Thread(target=lambda: [None for _ in asks], daemon=True).start()
        yield Reply(text="ends")
