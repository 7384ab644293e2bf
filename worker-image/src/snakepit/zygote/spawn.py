"""Start method Spawn: a fresh Python for one worker, which imports the adapter itself."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from snakepit.worker.load import load
from snakepit.worker.report import Job
from snakepit.zygote.channel import MAX_PACKET
from snakepit.zygote.keeper import keep


def main(arguments: list[str]) -> None:
    """Take the descriptors of the channels as arguments, and the job from the control channel."""
    control_number, report_number, page = (int(argument) for argument in arguments)
    control = socket.socket(fileno=control_number)
    report = socket.socket(fileno=report_number)
    control.set_inheritable(False)
    report.set_inheritable(False)
    packet = control.recv(MAX_PACKET)
    if not packet:
        return
    job = Job(**json.loads(packet))
    sys.argv = [job.adapter, *job.arguments]

    def import_adapter() -> Any:
        return load(job.adapter)

    keep(control, report, page, job, import_adapter)


if __name__ == "__main__":
    main(sys.argv[1:])
