"""The life of a worker process, from just after its fork to its exit code."""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import snakepit
from snakepit import logs
from snakepit.bridge import messages
from snakepit.bridge.protocol import VERSIONS
from snakepit.context import Worker
from snakepit.worker import failure
from snakepit.worker.host import Host
from snakepit.worker.link import Identity, Link
from snakepit.worker.loops import LoopThread, OwnLoop
from snakepit.worker.profile_process import Interrupts, ProcessProfile
from snakepit.worker.profile_thread import ThreadProfile
from snakepit.worker.report import Failed, Job, Loaded, Page, Ready, Reporter
from snakepit.worker.service import Service
from snakepit.worker.tools import Adapter, instantiate, slot_count
from snakepit.zygote.fresh import reset

FAILED_EXIT_CODE: Final = 70
# What every Hello says; made at import, which is before the fork.
_VERSIONS: Final[bytes] = messages.Hello(
    versions=VERSIONS, sdk_version=snakepit.__version__, runtime_version=platform.python_version()
).SerializeToString()


def run(job: Job, load: Callable[[], Any], report: socket.socket, page: Page) -> int:
    """Be a worker until told to end; return the exit code. `load` gives the adapter's class or object."""
    reporter = Reporter(report)
    stage = "import"
    try:
        reset(job.forked)
        target = load()
        reporter.say(Loaded())
        stage = "setup"
        adapter = instantiate(target, job.arguments)
        slots = slot_count()
        profile = ProcessProfile() if slots == 1 else ThreadProfile(slots)
        service = Service(adapter, _host(job, adapter, profile), reporter, page)
        link = Link(_identity(job, adapter, slots))
        _catch_stop(profile)
        if job.forked:
            service.run_hook("after_fork")
        service.setup()
    except BaseException as error:
        failure.log_exception(f"{stage} of the adapter failed", error)
        reporter.say(failed(stage, error))
        return FAILED_EXIT_CODE
    _hide_from_children(link, reporter)
    reporter.say(Ready())
    link.start()
    profile.serve(service, link)
    link.close()
    service.teardown()
    _flush()
    return 0


def failed(stage: str, error: BaseException) -> Failed:
    """Return the word for an import or setup that raised."""
    name = failure.cut(failure.type_name(type(error)), 128)
    return Failed(stage, name, failure.cut(failure.place(error), 200), failure.cut(failure.text_of(error), 256))


def _host(job: Job, adapter: Adapter, profile: ProcessProfile | ThreadProfile) -> Host:
    worker = Worker(job.pod_name or "local", job.slot)
    if isinstance(profile, ThreadProfile):
        return Host(worker, LoopThread(), profile)
    interruptible = any(tool.options.interruptible for tool in adapter.tools)
    return Host(worker, OwnLoop(), profile, Interrupts() if interruptible else None)


def _identity(job: Job, adapter: Adapter, slots: int) -> Identity:
    # As bytes, whose concatenation is the merged message: most of it was made before the fork.
    own = messages.Hello(
        incarnation={"pod_uid": job.pod_uid, "slot": job.slot, "nonce": job.nonce},
        proof=bytes.fromhex(job.proof),
        pid=os.getpid(),
    )
    hello = own.SerializeToString() + _VERSIONS
    data = b"".join(tool.announcement() for tool in adapter.tools)
    if adapter.methods:
        data += _methods(adapter)
    try:
        return Identity(job.bridge, hello, data, adapter.file_descriptors, slots)
    except ValueError as error:
        size = sum(len(tool.parameters_schema()) + len(tool.description()) for tool in adapter.tools)
        raise ValueError(
            f"the adapter's {len(adapter.tools)} tools have {size} bytes of schemas and descriptions, and its "
            f"{len(adapter.methods)} methods their paths: more than a Hello carries ({error}); shorten descriptions "
            "or give fewer of them"
        ) from None


def _methods(adapter: Adapter) -> bytes:
    methods = [
        {
            "path": method.path,
            "client_streaming": method.client_streaming,
            "server_streaming": method.server_streaming,
            "idempotent": method.idempotent,
        }
        for method in adapter.methods
    ]
    announced: bytes = messages.Hello(methods=methods).SerializeToString()
    return announced


def _catch_stop(profile: ProcessProfile | ThreadProfile) -> None:
    def stop(number: int, frame: object) -> None:
        profile.stop()

    signal.signal(signal.SIGTERM, stop)
    # Ctrl-C reaches the supervisor, which ends its workers in order.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _hide_from_children(link: Link, reporter: Reporter) -> None:
    """Take our connections away from processes that the adapter forks: one that held them would hide our death."""

    def hide() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in [*link.descriptors(), reporter.fileno()]:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)

    os.register_at_fork(after_in_child=hide)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            logs.write("worker", "output could not be flushed")
