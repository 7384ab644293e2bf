"""Calls that were sent ahead, at a real worker: they wait their turn, and can be taken back until they begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from conftest import Bare
from router_view import LAST, PIECE, eventually, piece, request
from snakepit.bridge import messages
from snakepit.bridge.protocol import FLAG_END_STREAM, FLAGS_WHOLE, Frame, Kind
from snakepit.errors import Code

Start = Callable[..., Bare]


GATED = """
    import os, time
    from snakepit import tool

    class App:
        @tool
        def wait(self, file: str) -> None:
            with open("notes", "a") as notes:
                notes.write("begun\\n")
            while not os.path.exists(file):
                time.sleep(0.001)

        @tool
        def say(self, text: str) -> str:
            with open("notes", "a") as notes:
                notes.write(text + "\\n")
            return text
"""


@pytest.fixture
def gated(bare: Start) -> Iterator[Bare]:
    yield bare(GATED)


def test_a_prefetched_call_can_be_taken_back_until_it_begins(gated: Bare) -> None:
    router, worker = gated.router, gated.worker
    first = router.start_call(worker, "wait", {"file": "go"})
    second = router.start_call(worker, "say", {"text": "recalled"})
    third = router.start_call(worker, "say", {"text": "kept"})
    eventually(gated.notes, "the first has begun")
    for id in (first, second):
        router.recall(worker, id)
    router.settle(worker)
    assert worker.frames[second] == [Frame(Kind.RECALLED, 0, second)]
    (gated.folder / "go").touch()
    assert router.finish(worker, first).code == 0
    assert router.finish(worker, third).result == "kept"
    router.recall(worker, third)
    router.settle(worker)
    assert gated.notes() == ["begun", "kept"]
    assert [f.kind for f in worker.frames[second]] == [Kind.RECALLED], "dropped in silence"
    assert all(frame.kind != Kind.RECALLED for id in (first, third) for frame in worker.frames[id])


def test_a_recall_outweighs_a_cancel(gated: Bare) -> None:
    router, worker = gated.router, gated.worker
    first = router.start_call(worker, "wait", {"file": "go"})
    both = router.start_call(worker, "say", {"text": "both"})
    router.cancel(worker, both)
    router.recall(worker, both)
    router.cancel(worker, both)
    router.settle(worker)
    (gated.folder / "go").touch()
    router.finish(worker, first)
    assert router.call(worker, "say", {"text": "after"}).result == "after"
    assert [frame.kind for frame in worker.frames[both]] == [Kind.RECALLED]


def test_a_tool_without_a_request_message(gated: Bare) -> None:
    router, worker = gated.router, gated.worker
    answer = router.call(worker, "say", payload=b"", flags=FLAG_END_STREAM)
    assert (answer.code, answer.info.reason, answer.accepted) == (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", True)
    body = request("say", {"text": "in pieces"})
    id = router.start_call(worker, "say", payload=b"", flags=0)
    piece(worker, id, body[:5], PIECE)
    piece(worker, id, body[5:], LAST)
    piece(worker, id, b"", FLAG_END_STREAM)
    assert router.finish(worker, id).result == "in pieces"


def test_session_frames_wait_for_a_call_that_reads_its_request(gated: Bare) -> None:
    router, worker = gated.router, gated.worker
    assert worker.data is not None
    id = router.start_call(worker, "say", payload=b"", flags=0)
    router.wait_frames(worker, id, Kind.ACCEPTED)
    ext = messages.SessionInfo(name="ada").SerializeToString()
    worker.data.send(Frame(Kind.SESSION_OPEN, 0, 0, (5,), ext))
    other = router.start_call(worker, "say", {"text": "second"}, epoch=5)
    piece(worker, id, request("say", {"text": "first"}), FLAGS_WHOLE)
    assert router.finish(worker, id).result == "first"
    assert router.finish(worker, other).result == "second"
    assert gated.notes() == ["first", "second"]
