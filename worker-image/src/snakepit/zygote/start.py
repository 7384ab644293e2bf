"""The first steps of a worker process, which its keeper has just forked."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from snakepit.worker import failure, process
from snakepit.worker.report import Job, Page, Reporter
from snakepit.zygote import linux, threads
from snakepit.zygote.keeper import Ends


def read_job(descriptor: int) -> Job:
    """Return the job that a file in memory holds."""
    return Job.from_bytes(os.pread(descriptor, os.fstat(descriptor).st_size, 0))


def be_worker(ends: Ends, load: Callable[[], Any]) -> int:
    """Live a worker's life; return its exit code. `load` gives the adapter's class or object."""
    linux.raise_oom_score(linux.OOM_STEP_WORKER)
    job = read_job(ends.job)
    page = Page(ends.page)
    os.close(ends.page)
    os.close(ends.job)
    threads.raise_preloaded(job.threads)
    report = socket.socket(fileno=ends.report)
    try:
        return process.run(job, load, report, page)
    except BaseException as error:
        # What escapes here came outside of every call: from a signal handler or the serving loop.
        failure.log_exception("the worker ends by an exception", error)
        Reporter(report).say(process.failed("run", error))
        code = error.code if isinstance(error, SystemExit) else None
        return code & 0xFF if isinstance(code, int) else process.FAILED_EXIT_CODE
