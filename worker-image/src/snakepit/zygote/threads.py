"""How many threads numeric libraries use: one while the adapter is preloaded, a worker's share of the CPUs after."""

from __future__ import annotations

import os
import sys
from typing import Final

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
_ORIGINAL_PREFIX: Final = "SNAKEPIT_ORIGINAL_"
_POOLS: Final = ("openblas", "libmkl", "libblis", "libgomp", "libiomp", "libomp")


def zygote_environment() -> dict[str, str]:
    """Return the zygote's environment: one thread for numeric libraries, what the user had set beside it."""
    changed = dict(os.environ)
    for name in THREAD_VARIABLES:
        if name in os.environ:
            changed[_ORIGINAL_PREFIX + name] = os.environ[name]
        changed[name] = "1"
    return changed


def restore_environment() -> None:
    """Give forked workers the variables that the user had set."""
    for name in THREAD_VARIABLES:
        original = os.environ.pop(_ORIGINAL_PREFIX + name, None)
        if original is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = original


def give(threads: int) -> None:
    """Let this worker's numeric libraries use so many threads, except where the user chose another number."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))
    # What was preloaded with one thread stays so unless this library, which needs no import then, can tell it.
    pools = sys.modules.get("threadpoolctl")
    wanted = _number(os.environ["OMP_NUM_THREADS"])
    if pools is not None and wanted > 1:
        pools.threadpool_limits(limits=wanted)


def preload_control() -> None:
    """Import threadpoolctl, where it is installed and libraries that it can tell are loaded."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            loaded = any(name in line for line in maps for name in _POOLS)
        if loaded:
            import threadpoolctl  # noqa: F401
    except (ImportError, OSError):
        # Nobody can tell them, then: they stay at one thread, as the documentation says.
        pass


def _number(text: str) -> int:
    """Return a number of threads; 0 for what is none, such as OpenMP's list of one number a nesting level."""
    return int(text) if text.isascii() and text.isdigit() else 0
