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
import sys
import threading
from typing import Any

from snakepit import logs
from snakepit.worker import failure, process
from snakepit.worker.load import load
from snakepit.worker.report import Job
from snakepit.worker.tools import check_declarations
from snakepit.zygote.channel import MAX_PACKET, restore_environment
from snakepit.zygote.keeper import keep


def fork_hazard() -> str:
    """Return why forking this process may break its children, or nothing."""
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        return f"preload left threads running: {', '.join(threads[:5])}"
    count = len(os.listdir("/proc/self/task"))
    if count > 1:
        return f"preload left {count - 1} native threads running"
    if "polars" in sys.modules:
        return "polars is imported; its thread pool does not survive a fork"
    torch: Any = sys.modules.get("torch")
    if torch is not None and getattr(torch, "cuda", None) is not None and torch.cuda.is_initialized():
        return "CUDA is initialised by torch; it cannot be used after a fork"
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and getattr(bridge, "_backends", None):
        return "JAX has initialised its backends; they do not survive a fork"
    return ""


def prepare(spec: str) -> Any:
    """Import the adapter, check what it declares, and run its preload."""
    target = load(spec)
    check_declarations(target)
    preload = getattr(target, "preload", None)
    if callable(preload):
        preload()
    # What every worker needs in any case is loaded once, here.
    for name in ("snakepit.worker.execution", "asyncio", "traceback", "linecache"):
        importlib.import_module(name)
    return target


def main(arguments: list[str]) -> None:
    """Load the adapter that the arguments name, then fork until the supervisor is gone."""
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
    restore_environment()
    gc.collect()
    gc.freeze()
    # Keepers say themselves when they end; their exit needs nobody to wait for it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    channel.send(json.dumps({"loaded": hazard}).encode())
    serve(channel, target)


def serve(channel: socket.socket, target: Any) -> None:
    """Fork one keeper with its worker for each request."""
    while True:
        packet, descriptors, _, _ = socket.recv_fds(channel, MAX_PACKET, 4, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return
        control, report, output, page = descriptors
        pid = os.fork()
        if pid == 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            job = Job(**json.loads(packet))
            keep(socket.socket(fileno=control), socket.socket(fileno=report), page, job, lambda: target)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KeyboardInterrupt, ConnectionError) as error:
        logs.write("zygote", "ends", error=repr(error))
