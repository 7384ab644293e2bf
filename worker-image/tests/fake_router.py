"""A router for tests: speaks the bridge over a real unix socket, in threads, and remembers all it was told."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from router_view import DEADLINE, Answer, Connection, Worker, eventually, request
from snakepit.bridge import messages
from snakepit.bridge.protocol import FLAGS_WHOLE, MAX_PAYLOAD, Frame, GoodbyeReason, Kind, Role, StartMethod


class FakeRouter:
    """Listens, welcomes whoever the supervisor announced, and offers calls."""

    def __init__(
        self,
        path: str,
        window: int = 1 << 20,
        max_message: int = 100 << 20,
        version: int = 2,
        marks: bool = False,
    ) -> None:
        self.path = path
        self.take_marks = marks
        self.instance = int.from_bytes(os.urandom(8), "little")
        self.window = window
        # The highest version that it speaks.
        self.version = version
        self.max_message = max_message
        self.proofs: dict[int, bytes] = {}
        self.slots: dict[int, int] = {}
        self.workers: dict[int, Worker] = {}
        self.told: list[Any] = []
        self.hellos: list[Any] = []
        self.refused: list[Any] = []
        self.supervisor: Connection | None = None
        self.desired: Any = None
        self._generation = 0
        self._nonces = itertools.count(1000)
        self._connections: list[Connection] = []
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def kill(self) -> None:
        """Vanish as a killed process does."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self.path)
        for connection in list(self._connections):
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.sock.close()

    def desire(
        self,
        *slots: int,
        method: StartMethod = StartMethod.AUTO,
        startup: float = 10,
        grace: float = 2,
        backoff: float = 0,
        **more: int | bool,
    ) -> None:
        self._generation += 1
        self.desired = messages.ToSupervisor(
            desired={
                "generation": self._generation,
                "slots": slots,
                "method": int(method),
                "startup_timeout_ms": int(startup * 1000),
                "stop_grace_ms": int(grace * 1000),
                "backoff_ms": int(backoff * 1000),
                "max_backoff_ms": int(backoff * 1000),
            }
            | more
        )
        if self.supervisor is not None and not self.supervisor.ended:
            self.order(self.desired)

    def order(self, message: Any) -> None:
        assert self.supervisor is not None
        self.supervisor.send(Frame(Kind.CONTROL, payload=message.SerializeToString()))

    def kill_worker(self, slot: int, cause: str, stacks: bool = False) -> None:
        incarnation = {"slot": slot, "nonce": self.slots[slot]}
        self.order(messages.ToSupervisor(kill={"incarnation": incarnation, "cause": cause, "dump_stacks": stacks}))

    def wait_told(self, condition: Callable[[Any], bool], what: str, seconds: float = DEADLINE) -> Any:
        """Wait for something that the supervisor says."""
        return eventually(lambda: next((m for m in list(self.told) if condition(m)), None), what, seconds)

    def exited(self, nonce: int, seconds: float = DEADLINE) -> Any:
        told = self.wait_told(lambda m: m.exited.incarnation.nonce == nonce, "WorkerExited", seconds)
        return told.exited

    def wait_worker(self, slot: int, not_nonce: int = 0, seconds: float = DEADLINE) -> Worker:
        """Wait for a connected worker in a slot."""

        def look() -> Worker | None:
            nonce = self.slots.get(slot, 0)
            worker = self.workers.get(nonce)
            return worker if worker is not None and nonce != not_nonce and worker.connected else None

        found: Worker = eventually(look, f"a worker in slot {slot}", seconds)
        return found

    def start_call(
        self,
        worker: Worker,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        json: dict[str, Any] | None = None,
        epoch: int = 0,
        timeout: float = 0,
        stream: bool = False,
        payload: bytes | None = None,
        flags: int = FLAGS_WHOLE,
        index: int | None = None,
        metadata: dict[str, bytes] | None = None,
        request_id: str = "",
        peer: str = "",
    ) -> int:
        """Send a Call; `request_id` is one that the caller chose."""
        entries = {":method": b"ExecuteStream"} if stream else {}
        pairs = [{"key": key, "value": value} for key, value in (entries | (metadata or {})).items()]
        info = messages.CallInfo(
            request_id=request_id or "r-1", caller_request_id=bool(request_id), metadata=pairs, peer=peer
        ).SerializeToString()
        assert worker.data is not None
        id = next(worker.ids)
        number = worker.tools.index(tool) if index is None else index
        body = request(tool, arguments or {}, json) if payload is None else payload
        # A Recall may have been answered already.
        worker.frames.setdefault(id, [])
        fixed = (number, epoch, int(timeout * 1e6))
        if len(body) <= MAX_PAYLOAD:
            worker.data.send(Frame(Kind.CALL, flags, id, fixed, info, body))
            return id
        worker.data.send(Frame(Kind.CALL, 1, id, fixed, info, body[:MAX_PAYLOAD]))
        self.send_pieces(worker, id, body[MAX_PAYLOAD:])
        return id

    def send_pieces(self, worker: Worker, id: int, rest: bytes) -> None:
        """Send the rest of a request in Message frames."""
        assert worker.data is not None
        while rest:
            piece, rest = rest[:MAX_PAYLOAD], rest[MAX_PAYLOAD:]
            worker.data.send(Frame(Kind.MESSAGE, 1 if rest else FLAGS_WHOLE, id, payload=piece))

    def finish(self, worker: Worker, id: int, seconds: float = DEADLINE) -> Answer:
        def ended() -> bool:
            return any(frame.kind == Kind.FINISH for frame in worker.frames[id])

        with self._changed:
            assert self._changed.wait_for(ended, seconds), f"call {id} did not end: {worker.frames[id]}"
        return Answer(worker.frames[id])

    def call(self, worker: Worker, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> Answer:
        return self.finish(worker, self.start_call(worker, tool, arguments, **more))

    def cancel(self, worker: Worker, id: int) -> None:
        assert worker.control is not None
        worker.control.send(Frame(Kind.CANCEL, 0, id, (1,)))

    def recall(self, worker: Worker, id: int) -> None:
        assert worker.control is not None
        worker.control.send(Frame(Kind.RECALL, 0, id))

    def settle(self, worker: Worker) -> None:
        """Wait until the worker has acted upon all that was sent on CONTROL."""
        assert worker.control is not None
        nonce = next(self._nonces)
        worker.control.send(Frame(Kind.PING, fixed=(nonce,)))
        eventually(lambda: worker.control and nonce in worker.control.pongs, "Pong")

    def wait_frames(self, worker: Worker, id: int, kind: Kind, count: int = 1, seconds: float = DEADLINE) -> None:
        """Wait until a call has got so many frames of a kind."""

        def there() -> bool:
            return sum(frame.kind == kind for frame in worker.frames.get(id, [])) >= count

        with self._changed:
            assert self._changed.wait_for(there, seconds), f"call {id}: no {kind!r} in {worker.frames.get(id)}"

    def open_session(self, worker: Worker, name: str, epoch: int) -> Frame:
        ext = messages.SessionInfo(name=name).SerializeToString()
        return self._session(worker, Frame(Kind.SESSION_OPEN, 0, 0, (epoch,), ext), Kind.SESSION_OPENED, epoch)

    def close_session(self, worker: Worker, epoch: int) -> Frame:
        return self._session(worker, Frame(Kind.SESSION_CLOSE, 0, 0, (epoch, 1)), Kind.SESSION_CLOSED, epoch)

    def _session(self, worker: Worker, frame: Frame, answer: Kind, epoch: int) -> Frame:
        assert worker.data is not None
        before = len(worker.sessions)
        worker.data.send(frame)

        def answered() -> Frame | None:
            new = worker.sessions[before:]
            return next((f for f in new if f.kind == answer and f.fixed[0] == epoch), None)

        with self._changed:
            found = self._changed.wait_for(answered, DEADLINE)
        assert found is not None
        return found

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(sock)
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            hello = connection.read_hello(self.take_marks)
            if hello is None:
                return
            assert hello.kind == Kind.HELLO, hello
            connection.hello = messages.Hello.FromString(hello.payload)
            self.hellos.append(connection.hello)
            if not self._admit(connection):
                self.refused.append(connection.hello)
                farewell = messages.Goodbye(reason=int(GoodbyeReason.IDENTITY)).SerializeToString()
                connection.send(Frame(Kind.GOODBYE, payload=farewell))
                return
            self._read(connection)
        except OSError:
            pass
        finally:
            connection.ended = True
            connection.sock.close()

    def _admit(self, connection: Connection) -> bool:
        hello = connection.hello
        welcome = messages.Welcome(
            version=max(v for v in hello.versions if v <= self.version),
            router_instance=self.instance,
            max_frame_bytes=327_688,
            initial_window_bytes=self.window,
            max_message_bytes=self.max_message,
            marks=connection.marks is not None,
        )
        answer = Frame(Kind.WELCOME, payload=welcome.SerializeToString())
        if hello.role == Role.SUPERVISOR:
            for state in hello.supervisor.workers:
                self._register(state)
            connection.send(answer)
            self.supervisor = connection
            if self.desired is not None:
                self.order(self.desired)
            return True
        nonce = hello.incarnation.nonce
        known = eventually(lambda: nonce in self.proofs, "WorkerStarted before Hello")
        if not known or self.proofs[nonce] != hello.proof:
            return False
        worker = self.workers.setdefault(nonce, Worker())
        if hello.role == Role.DATA:
            worker.ids = itertools.count(1)
            worker.frames = connection.frames
            connection.send(answer)
            worker.data = connection
        else:
            # First, because DATA may be there before this thread goes on.
            worker.control = connection
            connection.send(answer)
        return True

    def _register(self, started: Any) -> None:
        self.proofs[started.incarnation.nonce] = started.proof
        self.slots[started.incarnation.slot] = started.incarnation.nonce

    def _read(self, connection: Connection) -> None:
        worker = self.workers.get(connection.hello.incarnation.nonce)
        while (frame := connection.read()) is not None:
            with self._changed:
                if frame.kind == Kind.GOODBYE:
                    connection.goodbye = messages.Goodbye.FromString(frame.payload)
                elif frame.kind == Kind.PONG:
                    connection.pongs.append(frame.fixed[0])
                elif frame.kind == Kind.CONTROL:
                    message = messages.FromSupervisor.FromString(frame.payload)
                    if message.WhichOneof("kind") == "started":
                        self._register(message.started)
                    self.told.append(message)
                elif frame.kind in (Kind.SESSION_OPENED, Kind.SESSION_CLOSED):
                    assert worker is not None
                    worker.sessions.append(frame)
                else:
                    assert worker is not None
                    on_data = connection.hello.role == Role.DATA
                    frames = connection.frames if on_data else worker.frames
                    frames.setdefault(frame.id, []).append(frame)
                self._changed.notify_all()
