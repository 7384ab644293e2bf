"""Start method Spawn: a fresh Python for one worker, which imports the adapter itself."""

from __future__ import annotations

import os
import sys
from typing import Any

from snakepit.worker.load import load, preload
from snakepit.zygote import fresh, linux, threads
from snakepit.zygote.keeper import Ends, keep
from snakepit.zygote.start import be_worker, read_job


def main(arguments: list[str]) -> None:
    """Take the descriptors of the channels as arguments; the output's are standard output and error already."""
    linux.raise_oom_score(linux.OOM_STEP)
    ends = Ends(*(int(argument) for argument in arguments))
    for end in ends:
        os.set_inheritable(end, False)
    os.close(ends.output)
    job = read_job(ends.job)
    linux.keep_freed_memory()
    fresh.note()
    threads.Share().give(job.threads)
    sys.argv = [job.adapter, *job.arguments]

    def import_adapter() -> Any:
        target = load(job.adapter)
        # Nobody else has: what the adapter keeps in its class is there however its workers are started.
        preload(target)
        return target

    keep(ends, linux.child_exits(), lambda mine: be_worker(mine, import_adapter))


if __name__ == "__main__":
    main(sys.argv[1:])
