"""The seeded bugs of tests/seeded do what they say, so that the suites that use them prove something."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import Bare
from router_view import Answer, eventually
from snakepit.bridge.protocol import Outcome

APP = """
    import dataclasses, os
    from snakepit import tool

    @dataclasses.dataclass
    class Colour:
        name: str

        def __post_init__(self):
            if self.name != "red":
                os._exit(3)

    class App:
        @tool
        def paint(self, colour: Colour) -> str:
            return colour.name
"""


@pytest.mark.parametrize("bug", ["", "ignore-epoch", "accept-after-decode"])
def test_bugs(bare: Callable[..., Bare], bug: str) -> None:
    app = bare(APP, env={"SNAKEPIT_SEEDED_BUG": bug})
    router, worker = app.router, app.worker
    answer: Answer = router.call(worker, "paint", {"colour": {"name": "red"}})
    assert (answer.result, answer.accepted) == ("red", True)
    stale = router.call(worker, "paint", {"colour": {"name": "red"}}, epoch=99)
    assert stale.outcome == (Outcome.DONE if bug == "ignore-epoch" else Outcome.REFUSED_SESSION)
    id = router.start_call(worker, "paint", {"colour": {"name": "ends the process"}})
    assert app.process.process.wait(10) == 3
    connection = worker.data
    assert connection is not None
    eventually(lambda: connection.ended, "the router has read to the end")
    assert bool(worker.frames[id]) == (bug != "accept-after-decode"), "MAYBE_EXECUTED, or wrongly NOT_STARTED"
