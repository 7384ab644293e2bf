"""What user code does to the supervisor's own channels, and exceptions whose words no message can hold."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Starter
from fake_router import FakeRouter
from router_view import eventually
from snakepit.bridge.protocol import StartMethod

IMPORT = r"""
    raise ValueError("not text: \udc80 \x00 \N{SNOWMAN}" + "x" * 20_000)
"""

SETUP = r"""
    from snakepit import tool

    class \u00c9clair(Exception):
        pass

    class App:
        def setup(self, context):
            raise \u00c9clair("not text: \udc80" + "y" * 20_000)

        @tool
        def work(self) -> None:
            pass
""".replace(r"\u00c9", "É")

TOOLS = r"""
    import os, socket
    from snakepit import tool

    def channels():
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                copy = socket.socket(fileno=os.dup(number))
            except OSError:
                continue
            if copy.type == socket.SOCK_SEQPACKET:
                yield copy
            else:
                copy.close()

    class App:
        @tool
        def babble(self, words: list[bytes]) -> int:
            found = list(channels())
            for channel in found:
                for word in words:
                    channel.send(word)
            return len(found)

        @tool
        def fail(self) -> None:
            raise ValueError("not text: \udc80")

        @tool
        def answer(self) -> str:
            return "\udc80"

        @tool
        def exit(self) -> None:
            os.write(2, b"\xff\xfe not text\n")
            os._exit(3)
"""


@pytest.mark.parametrize("method", [StartMethod.FORK, StartMethod.SPAWN])
@pytest.mark.parametrize("source", [IMPORT, SETUP])
def test_an_exception_that_is_no_text(start: Starter, source: str, method: StartMethod) -> None:
    container = start(source=source)
    container.router.desire(0, method=method)
    said: Any = container.router.wait_told(
        lambda m: m.adapter.error_type == "ValueError" or m.exited.cause == "SETUP_FAILED", "why it failed"
    )
    assert said.adapter.error_place.startswith("app.py:") or said.exited.error_type == "app.Éclair"
    assert container.process is not None and container.process.poll() is None


WORDS = [b"O", b"C12345678", b"O\x07\0\0\0\0\0\0\0" + b"\xff\xfe", b"F{", b"F[1]", b"F{}", b"\xff" * 100]
# JSON that no message can hold, and such as no parser can.
WORDS += [b'F{"stage":"run","type":"\\udc80","place":"","message":""}', b"F" + b"[" * 8000]


def test_words_that_mean_nothing_end_no_supervisor(start: Starter) -> None:
    container = start(source=TOOLS)
    router: FakeRouter = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    router.open_session(worker, "kept", 11)
    assert router.call(worker, "babble", {"words": WORDS}).result >= 1
    eventually(lambda: "says what means nothing" in container.output(), "the supervisor tells")
    router.open_session(worker, "after", 12)
    router.wait_told(lambda m: m.session.session.epoch == 12, "it goes on")
    router.kill()
    router = container.restart_router()
    hello = eventually(lambda: next((h for h in router.hellos if h.supervisor.workers), None), "a Hello")
    assert [s.name for w in hello.supervisor.workers for s in w.sessions] == ["kept", "after"]


def test_a_tool_whose_words_are_no_text(start: Starter) -> None:
    container = start(source=TOOLS)
    router: FakeRouter = container.router
    router.desire(0)
    worker = router.wait_worker(0)
    assert "not text: " in router.call(worker, "fail").error.message
    assert router.call(worker, "answer").code != 0
    nonce = router.slots[0]
    router.start_call(worker, "exit")
    assert router.exited(nonce).exit_code == 3
