"""The zygote: a fresh Python that imports the adapter once, preloads, and forks workers from it on request.

Channel to the supervisor (SOCK_SEQPACKET, JSON): `{"loaded": …}` or `{"failed": …}` once, then one request a fork,
with the descriptors of the worker's channels. User code runs here, at import and in preload: what it breaks, the
supervisor sees as the end or the silence of this process, and starts another one.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
from typing import Any, Final

from snakepit import logs
from snakepit.worker import failure, process
from snakepit.worker.load import load, preload
from snakepit.worker.tools import check_declarations, remember
from snakepit.zygote import fresh, linux, threads
from snakepit.zygote.channel import MAX_PACKET
from snakepit.zygote.hazards import fork_hazard
from snakepit.zygote.keeper import Ends, keep
from snakepit.zygote.start import be_worker

_DESCRIPTORS: Final = struct.Struct(f"{len(Ends._fields)}i")
_FLAGS: Final = int(socket.MSG_CMSG_CLOEXEC)


def prepare(spec: str) -> Any:
    """Import the adapter, check what it declares, and run its preload."""
    target = load(spec)
    check_declarations(target)
    preload(target)
    remember(target)
    # What every worker needs in any case is loaded once, here.
    for name in ("snakepit.worker.execution", "asyncio", "traceback", "linecache"):
        importlib.import_module(name)
    return target


def main(arguments: list[str]) -> None:
    """Load the adapter that the arguments name, then fork until the supervisor is gone."""
    linux.raise_oom_score(linux.OOM_STEP)
    channel = socket.socket(fileno=int(arguments[0]))
    channel.set_inheritable(False)
    stacks = int(arguments[1])
    os.set_inheritable(stacks, False)
    # On this signal the place where a preload hangs is written to the supervisor, by C code, even inside a C call.
    faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=False)
    spec = arguments[2]
    sys.argv = arguments[2:]
    try:
        target = prepare(spec)
        hazard = fork_hazard()
    except BaseException as error:
        failure.log_exception("import of the adapter failed", error)
        word = process.failed("import", error)
        channel.send(json.dumps({"failed": [word.type, word.place, word.message]}).encode())
        os._exit(process.FAILED_EXIT_CODE)
    faulthandler.unregister(signal.SIGUSR2)
    os.close(stacks)
    threads.restore_environment()
    threads.preload_control()
    # Keepers say themselves when they end; their exit needs nobody to wait for it. They undo this for themselves, and
    # to Python it is never known: in a worker SIGCHLD has its default action.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    linux.ignore_signal(signal.SIGCHLD, True)
    exits = linux.child_exits()
    if not hazard:
        # Once for all children. With threads, which may use them, in each child alone.
        linux.replace_descriptors({0, 1, 2, channel.fileno(), exits})
    gc.collect()
    linux.keep_freed_memory()
    fresh.note()
    fresh.fill_pools()
    gc.freeze()
    gc.disable()
    channel.send(json.dumps({"loaded": hazard}).encode())
    serve(channel, exits, target, bare=not hazard)


def serve(channel: socket.socket, exits: int, target: Any, bare: bool) -> None:
    """Fork one keeper with its worker for each request; `bare` when nothing but this thread runs here.

    What the loop writes to between two forks, each keeper holds an older copy of: so it is plain, with few objects.
    """
    fork, block, unblock = linux.bare_fork if bare else os.fork, linux.block_signals, linux.unblock_signals
    receive, room, close = channel.recvmsg, socket.CMSG_SPACE(_DESCRIPTORS.size), os.close
    share = threads.Share()
    while True:
        packet, passed, _, _ = receive(MAX_PACKET, room, _FLAGS)
        if not packet:
            return
        descriptors = _DESCRIPTORS.unpack(passed[0][2])
        share.give(int(packet))
        # A signal between the fork and the keeper's own blocking would end it.
        block()
        try:
            child = fork()
        except OSError as error:
            # The supervisor takes the end of the channels as the worker's, and tries again.
            child = -1
            logs.write("zygote", "no worker could be forked", error=error)
        if child == 0:
            ends = Ends(*descriptors)
            os.dup2(ends.output, 1)
            os.dup2(ends.output, 2)
            close(ends.output)
            close(channel.detach())
            if not bare:
                linux.replace_descriptors({0, 1, 2, exits, *descriptors})
            keep(ends, exits, lambda mine: be_worker(mine, lambda: target))
        unblock()
        for descriptor in descriptors:
            close(descriptor)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KeyboardInterrupt, ConnectionError) as error:
        logs.write("zygote", "ends", error=repr(error))
