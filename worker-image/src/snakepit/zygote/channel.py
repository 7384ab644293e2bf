"""What the supervisor, the zygote and the keepers say to each other (SOCK_SEQPACKET, one message a packet)."""

from __future__ import annotations

import os
import struct
from typing import Final

# Keeper to supervisor: `S`, the keeper's and the worker's process id; `G` and the worker's wait status.
STARTED: Final = struct.Struct("<cII")
GONE: Final = struct.Struct("<ci")
# Supervisor to keeper: SIGTERM and SIGKILL for the worker.
TERMINATE: Final = b"T"
KILL: Final = b"K"
# Largest job, in bytes of JSON.
MAX_PACKET: Final = 128 << 10

# Variables that keep numeric libraries from starting threads while the adapter is preloaded.
THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
_ORIGINAL_PREFIX: Final = "SNAKEPIT_ORIGINAL_"


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
