"""F6: any order of calls, cancels, recalls, sessions, signals and broken links, at real workers of both profiles.

Every call has exactly one terminal frame, or was lost with its connection; what was recalled or refused never ran;
nothing ran twice, or under an epoch that was not held when its call was sent.
"""

from __future__ import annotations

import atexit
import itertools
import signal
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from conftest import Bare
from fake_router import FakeRouter
from router_view import Connection, eventually, request
from snakepit.bridge import messages
from snakepit.bridge.protocol import FLAG_END_STREAM, FLAGS_WHOLE, Frame, Kind, Outcome
from snakepit.worker.profile_process import INTERRUPT

APP = """
    import asyncio, os, threading, time
    from snakepit import Context, tool

    lock = threading.Lock()

    def ran(ctx, key):
        line = f"{key} {ctx.session.epoch if ctx.session else 0}\\n".encode()
        descriptor = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line)
        os.close(descriptor)

    class Quick:
        @tool
        def quick(self, ctx: Context, key: str) -> str:
            ran(ctx, key)
            return key

        @tool
        def fails(self, ctx: Context, key: str) -> str:
            ran(ctx, key)
            raise ValueError(key)

        @tool
        def held(self, ctx: Context, key: str) -> str:
            ran(ctx, key)
            while not (ctx.cancelled or os.path.exists("go")):
                time.sleep(0.0005)
            return key

        @tool
        async def awaited(self, ctx: Context, key: str) -> str:
            ran(ctx, key)
            while not os.path.exists("go"):
                await asyncio.sleep(0.0005)
            return key

        @tool
        def yields(self, ctx: Context, key: str):
            ran(ctx, key)
            for i in range(20):
                yield i

    class Process(Quick):
        @tool(interruptible=True)
        def asleep(self, ctx: Context, key: str) -> str:
            ran(ctx, key)
            for _ in range(20000):
                if os.path.exists("go"):
                    break
                time.sleep(0.0005)
            return key

    class Thread(Quick):
        thread_safe = True
"""
# Which of what there is; drawn as a number, so that what is drawn never depends on the worker.
PICK = st.integers(0, 1000)
T = TypeVar("T")


def choose(items: list[T], pick: int) -> T:
    return items[pick % len(items)]


TOOLS = ("quick", "fails", "held", "awaited", "yields", "asleep")


@dataclass
class Sent:
    """A call that the test sent."""

    id: int
    tool: str
    epoch: int
    # Whether its epoch may have been held, and whether it certainly was, when it was sent.
    possible: bool
    certain: bool
    connection: Connection
    complete: bool = True
    recalled: bool = False
    cancelled: bool = False
    frames: list[Frame] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """One worker process serves all examples, each on new connections and with names of its own."""

    slots: ClassVar[int] = 1
    adapter: ClassVar[str] = "app:Process"
    app: ClassVar[Bare | None] = None
    numbers: ClassVar[itertools.count[int]] = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        cls = type(self)
        if cls.app is None:
            folder = tempfile.TemporaryDirectory(prefix="snp-")
            atexit.register(folder.cleanup)
            path = Path(folder.name)
            (path / "app.py").write_text(textwrap.dedent(APP))
            cls.app = Bare(path, cls.adapter, cls.slots, FakeRouter(str(path / "bridge.sock")))
            atexit.register(cls.app.close)
        self.bare = cls.app
        self.router, self.worker = self.bare.router, self.bare.worker
        self.sent: dict[str, Sent] = {}
        # Epochs by what is known of them.
        self.held: dict[int, str] = {}
        self.unsure: set[int] = set()
        self.gone: set[int] = {1}
        self.example = next(cls.numbers)
        self.hellos = len(self.router.hellos)
        (self.bare.folder / "go").unlink(missing_ok=True)

    @initialize()
    def begin_with_new_connections(self) -> None:
        self.break_link("data")

    def connection(self) -> Connection:
        assert self.worker.data is not None
        return self.worker.data

    def send(self, *frames: Frame) -> None:
        try:
            self.connection().sock.sendall(b"".join(frame.encode() for frame in frames))
        except OSError:
            # The worker closed it: `settle` sees whether it was right.
            pass

    @rule(name=st.sampled_from("ab"))
    def open(self, name: str) -> None:
        epoch = next(self.numbers) + 10
        ext = messages.SessionInfo(name=f"{name}{self.example}").SerializeToString()
        self.send(Frame(Kind.SESSION_OPEN, 0, 0, (epoch,), ext))
        self.held[epoch] = name

    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        if not self.held:
            return
        epoch = choose(sorted(self.held), pick)
        self.send(Frame(Kind.SESSION_CLOSE, 0, 0, (epoch, 1)))
        # Frames of one connection are obeyed in order.
        del self.held[epoch]
        self.gone.add(epoch)

    @rule(tool=st.sampled_from(TOOLS), pick=PICK, complete=st.booleans())
    def call(self, tool: str, pick: int, complete: bool) -> None:
        if tool == "asleep" and self.slots > 1:
            tool = "held"
        known = sorted(self.held) * 2 + sorted(self.unsure) + sorted(self.gone)
        epoch = choose([0, 0, *known], pick)
        key = f"{self.example}.{len(self.sent)}"
        id = next(self.worker.ids)
        connection = self.connection()
        frames = connection.frames.setdefault(id, [])
        certain = epoch == 0 or epoch in self.held
        possible = certain or epoch in self.unsure
        entries = [{"key": ":method", "value": b"ExecuteStream"}] if tool == "yields" else []
        info = messages.CallInfo(request_id=key, metadata=entries).SerializeToString()
        body, fixed = request(tool, {"key": key}), (self.worker.tools.index(tool), epoch, 0)
        self.sent[key] = Sent(id, tool, epoch, possible, certain, connection, complete, frames=frames)
        if complete:
            self.send(Frame(Kind.CALL, FLAGS_WHOLE, id, fixed, info, body))
        else:
            self.send(Frame(Kind.CALL, 1, id, fixed, info, body[:3]))

    @rule(pick=PICK)
    def complete(self, pick: int) -> None:
        current = self.current()
        keys = [key for key, sent in self.sent.items() if sent in current and not sent.complete]
        if not keys:
            return
        key = choose(keys, pick)
        sent = self.sent[key]
        sent.complete = True
        body = request(sent.tool, {"key": key})
        self.send(Frame(Kind.MESSAGE, 3, sent.id, payload=body[3:]), Frame(Kind.MESSAGE, FLAG_END_STREAM, sent.id))

    def current(self) -> list[Sent]:
        return [sent for sent in self.sent.values() if sent.connection is self.worker.data]

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        current = self.current()
        if not current:
            return
        sent = choose(current, pick)
        sent.cancelled = True
        self.router.cancel(self.worker, sent.id)

    @rule(pick=PICK)
    def recall(self, pick: int) -> None:
        current = self.current()
        if not current:
            return
        sent = choose(current, pick)
        sent.recalled = True
        self.router.recall(self.worker, sent.id)

    @rule(ahead=st.integers(1, 3), recall=st.booleans())
    def overtake(self, ahead: int, recall: bool) -> None:
        """Cancel or recall a call that does not exist yet, then send calls up to it."""
        next_id = next(self.worker.ids)
        self.worker.ids = itertools.chain([next_id], self.worker.ids)  # type: ignore[assignment]
        control = self.worker.control
        assert control is not None
        id = next_id + ahead - 1
        control.send(Frame(Kind.RECALL, 0, id) if recall else Frame(Kind.CANCEL, 0, id, (1,)))
        self.router.settle(self.worker)
        for _ in range(ahead):
            key = f"{self.example}.{len(self.sent)}"
            made = self.router.start_call(self.worker, "quick", {"key": key})
            self.sent[key] = Sent(made, "quick", 0, True, True, self.connection(), frames=self.worker.frames[made])
        self.sent[key].recalled, self.sent[key].cancelled = recall, not recall

    @rule()
    def let_go(self) -> None:
        (self.bare.folder / "go").touch()

    @rule(number=st.sampled_from([signal.SIGWINCH, INTERRUPT]))
    def signal(self, number: int) -> None:
        if self.slots == 1 or number != INTERRUPT:
            self.bare.process.process.send_signal(number)

    @rule(which=st.sampled_from(["data", "control"]))
    def break_link(self, which: str) -> None:
        # In profile Process the handler must return before DATA is dialled again.
        (self.bare.folder / "go").touch()
        old = self.connection()
        broken = old if which == "data" else self.worker.control
        assert broken is not None
        broken.sock.shutdown(2)
        eventually(lambda: self.worker.connected and self.worker.data is not old and old.ended, "a new pair")
        self.hellos += 2
        # What was on its way may or may not have arrived. A close that was lost leaves its life held.
        self.unsure |= set(self.held) | (self.gone - {1})
        self.held.clear()
        self.gone = {1}
        (self.bare.folder / "go").unlink()

    def teardown(self) -> None:
        (self.bare.folder / "go").touch()
        for sent in self.current():
            if not sent.complete:
                self.router.cancel(self.worker, sent.id)
                sent.cancelled = True
        current = self.current()
        eventually(lambda: all(terminal(sent) for sent in current), "every call has ended")
        # Nothing more comes behind what is answered after it.
        assert self.router.call(self.worker, "quick", {"key": f"{self.example}.end"}).code == 0
        self.router.settle(self.worker)
        assert len(self.router.hellos) == self.hellos, "the worker broke a link by itself"
        eventually(lambda: self.bare.process.page.read() == [], "nothing runs")
        ran: dict[str, list[int]] = {}
        file = self.bare.folder / "ran"
        for line in file.read_text().splitlines():
            key, epoch = line.split()
            ran.setdefault(key, []).append(int(epoch))
        for key, sent in self.sent.items():
            check(sent, ran.get(key, []), sent in current, self.worker.control)
        file.unlink()


def recalled(sent: Sent) -> bool:
    return any(frame.kind == Kind.RECALLED for frame in sent.frames)


def terminal(sent: Sent) -> int:
    return sum(frame.kind in (Kind.FINISH, Kind.RECALLED) for frame in sent.frames)


def check(sent: Sent, ran: list[int], reached: bool, control: Connection | None) -> None:
    """Compare what a call was answered with what its handler did."""
    kinds = [frame.kind for frame in sent.frames if frame.kind != Kind.WINDOW]
    assert len(ran) <= 1, "it ran twice"
    assert not ran or ran == [sent.epoch]
    assert not ran or sent.possible, f"ran under an epoch that was not held: {sent}"
    assert terminal(sent) == 1 if reached else terminal(sent) <= 1, sent
    if recalled(sent):
        assert sent.recalled and not ran and kinds == [Kind.RECALLED], "it was promised never to run"
        return
    if Kind.FINISH not in kinds:
        return
    assert kinds[-1] == Kind.FINISH
    outcome = sent.frames[[frame.kind for frame in sent.frames].index(Kind.FINISH)].fixed[1]
    assert (outcome == Outcome.DONE) == (kinds[0] == Kind.ACCEPTED)
    if outcome != Outcome.DONE:
        assert not ran and kinds == [Kind.FINISH]
        assert outcome in (Outcome.REFUSED_CANCELLED, Outcome.REFUSED_SESSION)
        assert outcome != Outcome.REFUSED_CANCELLED or sent.cancelled
        assert outcome != Outcome.REFUSED_SESSION or not sent.certain
    elif not sent.cancelled:
        assert ran, "answered without having run"


# Not shrunk: with real processes that takes minutes, and the steps are printed in any case.
SETTINGS = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


class ProcessMachine(Machine):
    """Profile Process."""


class ThreadMachine(Machine):
    """Profile Thread."""

    slots = 3
    adapter = "app:Thread"
    app = None


TestProcess = ProcessMachine.TestCase
TestProcess.settings = SETTINGS
TestThread = ThreadMachine.TestCase
TestThread.settings = SETTINGS
