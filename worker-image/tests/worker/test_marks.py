"""Marks: a call that begins is noted in memory which the router reads, and no frame is sent for it (docs/bridge.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import Bare
from fake_router import FakeRouter
from router_view import Answer, Worker, eventually, request
from snakepit.bridge.protocol import FLAG_END_MESSAGE, FLAG_END_STREAM, FLAG_MESSAGE, Frame, Kind, Outcome

APP = """
    import dataclasses, os, pathlib, time
    from snakepit import tool

    def note(text):
        with open("notes", "a") as notes:
            notes.write(text + "\\n")

    @dataclasses.dataclass
    class Deadly:
        name: str

        def __post_init__(self):
            os._exit(3)

    class App:
        thread_safe = True

        @tool
        def echo(self, text: str) -> str:
            note(text)
            return text

        @tool
        def wait(self, name: str) -> str:
            note(name)
            while not pathlib.Path(name).exists():
                time.sleep(0.005)
            return name

        @tool
        def decode(self, payload: Deadly) -> None:
            pass

        @tool
        def count(self, n: int):
            yield from range(n)
"""


def begin(bare: Callable[..., Bare], **more: object) -> tuple[Bare, FakeRouter, Worker]:
    app = bare(APP, marks=True, **more)
    return app, app.router, app.worker


def test_a_complete_call_is_marked_and_no_frame_says_so(bare: Callable[..., Bare]) -> None:
    _, router, worker = begin(bare)
    assert worker.marked == [0]
    for number in (1, 2):
        answer: Answer = router.call(worker, "echo", {"text": "x"})
        assert (answer.result, answer.accepted, worker.marked) == ("x", False, [number])
    stream = router.call(worker, "count", {"n": 3}, stream=True)
    assert (stream.items, stream.accepted, worker.marked) == ([0, 1, 2], False, [3])


def test_the_mark_is_set_before_anything_is_decoded_and_outlives_the_process(bare: Callable[..., Bare]) -> None:
    app, router, worker = begin(bare)
    router.start_call(worker, "decode", {"payload": {"name": "x"}})
    assert app.process.process.wait(10) == 3
    assert worker.marked == [1]


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"index": 99}, Outcome.REFUSED_TOOL),
        ({"epoch": 7}, Outcome.REFUSED_SESSION),
        ({"timeout": 1e-6}, Outcome.REFUSED_DEADLINE),
    ],
)
def test_a_refused_call_is_not_marked(bare: Callable[..., Bare], more: dict[str, float], outcome: Outcome) -> None:
    _, router, worker = begin(bare)
    answer = router.call(worker, "echo", {"text": "x"}, **more)
    assert (answer.outcome, worker.marked) == (outcome, [0])


def test_a_call_in_pieces_is_told_by_a_frame_and_not_marked(bare: Callable[..., Bare]) -> None:
    _, router, worker = begin(bare)
    body = request("echo", {"text": "in two pieces"})
    id = router.start_call(worker, "echo", payload=body[:5], flags=FLAG_MESSAGE)
    router.wait_frames(worker, id, Kind.ACCEPTED)
    assert worker.data is not None
    rest = FLAG_MESSAGE | FLAG_END_MESSAGE | FLAG_END_STREAM
    worker.data.send(Frame(Kind.MESSAGE, rest, id, payload=body[5:]))
    assert (router.finish(worker, id).result, worker.marked) == ("in two pieces", [0])


def test_each_slot_has_its_mark(bare: Callable[..., Bare]) -> None:
    app, router, worker = begin(bare, slots=3)
    ids = [router.start_call(worker, "wait", {"name": f"go-{i}"}) for i in range(3)]
    eventually(lambda: sorted(worker.marked) == ids, "three marks")
    for i, id in enumerate(ids):
        (app.folder / f"go-{i}").touch()
        assert router.finish(worker, id).code == 0
    assert sorted(worker.marked) == ids


@pytest.mark.parametrize("slots", [1, 2])
def test_nothing_begins_once_the_link_broke(bare: Callable[..., Bare], slots: int) -> None:
    """What the router reads off the marks when the connection has ended is final."""
    app, router, worker = begin(bare, slots=slots)
    first = [router.start_call(worker, "wait", {"name": "go"}) for _ in range(slots)]
    eventually(lambda: sorted(worker.marked) == first, "the first calls run")
    router.start_call(worker, "echo", {"text": "late"})
    old = worker.data
    assert old is not None
    assert worker.control is not None
    worker.control.sock.shutdown(2)
    eventually(lambda: old.ended, "the worker ends both connections")
    assert old.marks is not None
    held = bytes(old.marks)
    (app.folder / "go").touch()
    eventually(lambda: app.worker.data is not old and app.worker.connected, "the worker comes back")
    assert (app.worker.marked, bytes(old.marks)) == ([0] * slots, held)
    assert router.call(app.worker, "echo", {"text": "again"}).result == "again"
    assert app.notes() == ["go"] * slots + ["again"]
