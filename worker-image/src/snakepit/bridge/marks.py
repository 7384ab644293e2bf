"""The memory in which a worker notes that a call begins: the router reads it when the connection has ended.

A mark is one aligned store, which outlives the process that wrote it: no frame need be sent and read for each call.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

MARK_BYTES: Final = 8


class Marks:
    """The number of the call that began last in each slot, for one DATA connection."""

    def __init__(self, slots: int) -> None:
        """Raise OSError or AttributeError where the system has no such memory."""
        size = slots * MARK_BYTES
        self.descriptor = os.memfd_create("snakepit-marks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            # By slot; both ends are on one machine, so that byte order is no question.
            self.words = memoryview(mmap.mmap(self.descriptor, size)).cast("Q")
        except BaseException:
            os.close(self.descriptor)
            raise

    def sent(self) -> None:
        """Give the descriptor back; the memory stays."""
        os.close(self.descriptor)


def new_marks(slots: int) -> Marks | None:
    """Return fresh marks, or None where there can be none: then every call is told by a frame."""
    try:
        return Marks(slots)
    except (AttributeError, OSError):
        return None
