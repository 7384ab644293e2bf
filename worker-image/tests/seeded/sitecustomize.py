"""Puts a known bug into the workers of a test, so that the test can prove that it would find it.

Not part of the package: production code knows nothing of it. Put this folder in front of PYTHONPATH and set
SNAKEPIT_SEEDED_BUG in the environment of the supervisor (zygote, spawned and forked workers inherit both):

- ignore-epoch: a call runs under any epoch, held or not;
- accept-after-decode: a call is marked, or its Accepted is sent, after the request was decoded and its arguments
  converted.
"""

from __future__ import annotations

import os
from typing import Any


def ignore_epoch() -> None:
    """Let every call find a session."""
    from snakepit.bridge.sessions import SessionTable
    from snakepit.context import Session
    from snakepit.worker.service import Life

    original = SessionTable.__init__

    def make(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        find = self.find
        self.find = lambda epoch: find(epoch) or next(iter(self._held.values()), None) or Life(Session("stale", epoch))

    SessionTable.__init__ = make  # type: ignore[method-assign]


def accept_after_decode() -> None:
    """Decode before Accepted."""
    from snakepit import messages
    from snakepit.bridge import protocol
    from snakepit.worker import service
    from snakepit.worker.execution import Tool
    from snakepit.worker.link import Pair

    original = Tool.run

    def run(self: Any, call: Any) -> None:
        if call.payload is not None:
            self.bind(messages.ExecuteRequest.FromString(call.payload))
        if call.pair.late_marks is None:
            call.pair.data.write(protocol.accepted(call.id))
        else:
            call.pair.late_marks[0] = call.id
        original(self, call)

    def attach(self: Any, *arguments: Any) -> None:
        attached(self, *arguments)
        # What the service writes to is nobody's.
        self.late_marks, self.marks = self.marks, self.marks and [0]

    attached = Pair.attach
    Pair.attach = attach  # type: ignore[method-assign]
    Tool.run = run  # type: ignore[method-assign]
    service.accepted = lambda id: b""  # type: ignore[attr-defined]


BUGS = {"ignore-epoch": ignore_epoch, "accept-after-decode": accept_after_decode}

if os.environ.get("SNAKEPIT_SEEDED_BUG"):
    BUGS[os.environ["SNAKEPIT_SEEDED_BUG"]]()
