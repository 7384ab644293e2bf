"""Whether a process may be forked after the adapter was preloaded in it: what does not survive a fork."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Final

_SHOWN: Final = 5
# Prefixes of what /proc/self/fd says of descriptors that a forked process cannot use beside its parent.
_DEVICES: Final = ("/dev/nvidia", "/dev/kfd")
_SHARED: Final = {
    "anon_inode:[eventpoll]": "an event loop or selector (epoll)",
    "anon_inode:[io_uring]": "an io_uring",
}


def fork_hazard() -> str:
    """Return why forking this process may break its children, or nothing."""
    return _threads() or _libraries() or _descriptors()


def _threads() -> str:
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        return f"preload left threads running: {', '.join(threads[:_SHOWN])}"
    native = [name for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
    if not native:
        return ""
    names = sorted({_thread_name(task) for task in native})
    of = f" ({', '.join(names[:_SHOWN])})"
    if "grpc" in sys.modules and any("grpc" in name or "event_engine" in name for name in names):
        return f"preload opened gRPC channels or servers, whose {len(native)} threads{of} do not survive a fork"
    return f"preload left {len(native)} native threads running{of}"


def _thread_name(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as name:
            return name.read().strip()
    except OSError:
        return "ended"


def _libraries() -> str:
    if "polars" in sys.modules:
        return "polars is imported; its thread pool does not survive a fork"
    torch: Any = sys.modules.get("torch")
    if torch is not None and getattr(torch, "cuda", None) is not None and torch.cuda.is_initialized():
        return "CUDA is initialised by torch; it cannot be used after a fork"
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and getattr(bridge, "_backends", None):
        return "JAX has initialised its backends; they do not survive a fork"
    eager: Any = sys.modules.get("tensorflow.python.eager.context")
    context: Any = getattr(eager, "_context", None)
    if context is not None and getattr(context, "_initialized", False):
        return "TensorFlow has initialised its runtime; it does not survive a fork"
    return ""


def _descriptors() -> str:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            # The descriptor of the listing itself.
            continue
        if target.startswith(_DEVICES):
            return f"preload opened {target}; a GPU's context cannot be used after a fork"
        if target in _SHARED:
            return f"preload opened {_SHARED[target]}, which forked workers cannot use"
    return ""
