"""Profile Thread: several threads that take turns at reading DATA, and overlap in running handlers.

One thread at a time has the reading role. It reads until it has a job, hands the role on, and then runs the job. A
handler that waits for a piece of its request takes the role when nobody has it. Jobs of one session form a lane: they
run one at a time, in the order of their frames, and no other session waits for them.

All state here is guarded by one lock, which is never held while anything blocks.
"""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import threading
from collections import deque
from typing import Final

from snakepit.bridge.calls import Request
from snakepit.bridge.protocol import FLAGS_WHOLE, Frame, Kind, PlainCall, ProtocolError
from snakepit.bridge.socket import Connection, ConnectionLostError
from snakepit.worker.call import Call
from snakepit.worker.link import Link, Pair
from snakepit.worker.profile_process import StopServing, drain, plain_call
from snakepit.worker.service import Service, first_piece, session_name

# Jobs that wait for their session, or for a thread.
MAX_WAITING_JOBS: Final = 4096
_JOIN_SECONDS: Final = 1.0


@dataclasses.dataclass(eq=False)
class Job:
    """A frame that a thread must act upon."""

    pair: Pair
    frame: Frame | PlainCall
    received_at: int
    # Name and epoch of the session whose jobs run one after the other; None for a job that is free.
    lane: str | None = None
    epoch: int = 0
    request: Request | None = None


class ThreadProfile:
    """Serves with `slots` threads. It is the feed of its calls too."""

    def __init__(self, slots: int) -> None:
        self.lock: threading.Lock = threading.Lock()
        self._slots = slots
        self._idle = threading.Condition(self.lock)
        self._idling = 0
        self._ended = threading.Condition(self.lock)
        # Handlers that wait for a piece of their request.
        self._hungry: dict[Call, threading.Condition] = {}
        self._reading = False
        self._jobs: deque[Job] = deque()
        self._lanes: dict[str, deque[Job]] = {}
        self._waiting_jobs = 0
        # The session that an epoch belongs to, from the moment its SessionOpen was read.
        self._names: dict[int, str] = {}
        self._busy = 0
        self._pair: Pair | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._pausing = False

    def stop(self) -> None:
        """End `serve` when the running handlers have returned; called by the signal handler, in the main thread."""
        self._stopping = True
        if self._pausing:
            self._pausing = False
            raise StopServing

    def serve(self, service: Service, link: Link) -> None:
        """Serve until stopped. The main thread only waits for signals."""
        threads = [
            threading.Thread(target=self._work, args=(service, link, slot), name=f"snakepit-{slot}", daemon=True)
            for slot in range(self._slots)
        ]
        for thread in threads:
            thread.start()
        try:
            # The order matters: first the flag, then the look at what came before.
            self._pausing = True
            while not self._stopping:
                signal.pause()
        except StopServing:
            pass
        self._pausing = False
        with self.lock:
            self._idle.notify_all()
            while self._busy:
                self._ended.wait()
        # Wakes the one that reads.
        link.close()
        for thread in threads:
            thread.join(_JOIN_SECONDS)

    # Idle threads.

    def _work(self, service: Service, link: Link, slot: int) -> None:
        while (job := self._next(link)) is not None:
            self._run_lane(service, slot, job)

    def _next(self, link: Link) -> Job | None:
        """Return the next job, reading for it in turn; None at the end."""
        with self.lock:
            while True:
                if self._stopping:
                    return None
                if self._jobs:
                    self._busy += 1
                    self._waiting_jobs -= 1
                    job: Job | None = self._jobs.popleft()
                    self._hand_on()
                    return job
                if not self._reading:
                    self._reading = True
                    break
                self._idling += 1
                self._idle.wait()
                self._idling -= 1
        job = None
        try:
            job = self._lead(link)
        finally:
            with self.lock:
                self._reading = False
                if self._stopping:
                    # Nothing of it has begun, and the Goodbye that follows says that nothing will.
                    job = None
                if job is not None:
                    self._busy += 1
                self._hand_on()
        return job

    def _hand_on(self) -> None:
        """Wake somebody for the reading role or a job, if one is there to be taken; under the lock.

        Whoever is woken and takes something else calls this again.
        """
        if self._idling and (self._jobs or not self._reading):
            self._idle.notify()
        elif not self._reading and self._hungry:
            next(iter(self._hungry.values())).notify()

    def _lead(self, link: Link) -> Job | None:
        """Read until there is a job, connecting again when the link breaks; None when it was closed."""
        while True:
            pair = self._pair
            if pair is None or pair.broken:
                if pair is not None:
                    self._lost(pair)
                pair = link.next_pair()
                if pair is None:
                    return None
                with self.lock:
                    self._pair = pair
            data = pair.data
            assert data is not None
            try:
                frame = data.decoder.next_call() or data.decoder.next_frame()
                if frame is None:
                    data.receive()
                    continue
                job = self._sort(pair, data, frame)
            except ConnectionLostError:
                pair.end()
            except ProtocolError as error:
                pair.violated(error)
            else:
                if job is not None:
                    return job

    def _lost(self, pair: Pair) -> None:
        with self.lock:
            for call, hungry in self._hungry.items():
                if call.pair is pair:
                    hungry.notify()
        _close_when_unused(pair)

    def _sort(self, pair: Pair, data: Connection, frame: Frame | PlainCall) -> Job | None:
        """Put a frame where it belongs; return the job that a thread must do now, if it is one. By the reader."""
        job = Job(pair, frame, data.received_at)
        if isinstance(frame, Frame):
            if frame.kind == Kind.MESSAGE:
                self._add_piece(pair, frame)
                return None
            if frame.kind == Kind.CALL:
                job.frame = frame = plain_call(frame)
        if isinstance(frame, tuple):
            flags, id, _, job.epoch, _, _, payload = frame
            with pair.lock:
                pair.calls.see(id)
            if flags & FLAGS_WHOLE != FLAGS_WHOLE:
                job.request = pair.requests[id] = first_piece(pair, flags, payload)
            if not job.epoch:
                return job
        elif frame.kind in (Kind.SESSION_OPEN, Kind.SESSION_CLOSE):
            job.epoch = frame.fixed[0]
            if frame.kind == Kind.SESSION_OPEN:
                return self._enter_lane(job, session_name(frame))
        else:
            return job
        return self._enter_lane(job)

    def _enter_lane(self, job: Job, begins: str | None = None) -> Job | None:
        with self.lock:
            if begins is not None:
                self._names[job.epoch] = begins
            lane = job.lane = self._names.get(job.epoch)
            if lane is None:
                return job
            waiting = self._lanes.get(lane)
            if waiting is None:
                self._lanes[lane] = deque()
                return job
            waiting.append(job)
            self._count_waiting()
            return None

    def _count_waiting(self) -> None:
        self._waiting_jobs += 1
        if self._waiting_jobs > MAX_WAITING_JOBS:
            raise ProtocolError("too_many_frames", f"{self._waiting_jobs} frames wait for a thread or their session")

    def _add_piece(self, pair: Pair, frame: Frame) -> None:
        request = pair.requests.get(frame.id)
        if request is None:
            # Its call has ended.
            return
        with self.lock:
            request.add(frame.flags, frame.payload)
            credit = request.credit()
            if request.whole:
                for call, hungry in self._hungry.items():
                    if call.request is request:
                        hungry.notify()
        if credit:
            pair.give_credit(frame.id, credit)

    # Jobs.

    def _run_lane(self, service: Service, slot: int, first: Job) -> None:
        """Do a job, and those that its session has waiting."""
        job: Job | None = first
        while job is not None:
            try:
                if not job.pair.broken and not self._stopping:
                    self._run(service, slot, job)
            except ConnectionLostError:
                job.pair.end()
            except ProtocolError as error:
                job.pair.violated(error)
            if isinstance(job.frame, tuple):
                job.pair.requests.pop(job.frame[1], None)
            if job.pair.broken:
                _close_when_unused(job.pair)
            job = self._next_in_lane(service, job)
        with self.lock:
            self._busy -= 1
            self._ended.notify()

    def _run(self, service: Service, slot: int, job: Job) -> None:
        if isinstance(job.frame, tuple):
            service.call(job.pair, slot, job.frame, job.received_at, job.request)
        else:
            service.other(job.pair, slot, job.frame)

    def _next_in_lane(self, service: Service, job: Job) -> Job | None:
        if job.lane is None:
            return None
        with self.lock:
            if not service.knows(job.epoch):
                self._names.pop(job.epoch, None)
            waiting = self._lanes[job.lane]
            if waiting:
                self._waiting_jobs -= 1
                return waiting.popleft()
            del self._lanes[job.lane]
            return None

    # Handlers that wait.

    def more(self, call: Call) -> None:
        """Wait until the call's request has something whole, or it is cancelled; read for it when nobody does."""
        request = call.request
        assert request is not None
        if not call.fed:
            call.fed = True
            call.on_cancel(lambda: self._woken(call))
        with self.lock:
            while not (request.whole or call.cancelled or call.finished or call.pair.broken):
                if not self._reading and self._pair is call.pair:
                    self._reading = True
                    break
                hungry = self._hungry[call] = threading.Condition(self.lock)
                hungry.wait()
                del self._hungry[call]
            else:
                self._hand_on()
                if call.pair.broken and not request.whole:
                    raise ConnectionLostError("the link broke")
                return
        try:
            self._read_for(call)
        finally:
            with self.lock:
                self._reading = False
                self._hand_on()

    def leave(self, call: Call) -> None:
        """Wake whoever waits for an ended call."""
        self._woken(call)

    def _read_for(self, call: Call) -> None:
        """Act upon one frame, or receive once; jobs go to the threads that are idle."""
        data = call.pair.data
        assert data is not None
        frame = data.decoder.next_call() or data.decoder.next_frame()
        if frame is None:
            poll = select.poll()
            poll.register(data.fileno(), select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake in ready:
                drain(self._wake)
            else:
                data.receive()
            return
        job = self._sort(call.pair, data, frame)
        if job is not None:
            with self.lock:
                self._count_waiting()
                self._jobs.append(job)
                self._hand_on()

    def _woken(self, call: Call) -> None:
        with self.lock:
            hungry = self._hungry.get(call)
            if hungry is not None:
                hungry.notify()
        # It may be the one that reads.
        os.eventfd_write(self._wake, 1)


def _close_when_unused(pair: Pair) -> None:
    """Give the descriptors of a broken pair back, once no handler may still be writing to them."""
    with pair.lock:
        unused = not pair.calls.running
    if unused and pair.data is not None:
        pair.data.close()
