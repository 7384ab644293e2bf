"""What the supervisor, the zygote and the keepers say to each other (SOCK_SEQPACKET, one message a packet)."""

from __future__ import annotations

import struct
from typing import Final

# Keeper to supervisor: `S`, the keeper's and the worker's process id; `G` and the worker's wait status.
STARTED: Final = struct.Struct("<cII")
GONE: Final = struct.Struct("<ci")
# Supervisor to keeper: SIGTERM, SIGUSR1 (its stacks, to standard error) and SIGKILL for the worker.
TERMINATE: Final = b"T"
DUMP: Final = b"U"
KILL: Final = b"K"
# Largest packet between supervisor and zygote.
MAX_PACKET: Final = 16 << 10
# Largest job, in bytes of JSON. The arguments of a pool come from the command line, which the kernel bounds at 2 MiB;
# JSON takes up to six bytes for one.
MAX_JOB: Final = 16 << 20
