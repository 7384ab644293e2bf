"""One worker process without supervisor or keeper, for tests that need many of them, or one to measure.

As a program: `python bare.py FOLDER SLOTS ADAPTER` is the worker. `BareWorker` starts it and speaks for its supervisor.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from fake_router import FakeRouter
from snakepit.worker.report import PAGE_BYTES, Job, Page

TESTS = Path(__file__).resolve().parent
NONCE = 7
PROOF = bytes(range(16))


def job(path: str, adapter: str) -> Job:
    """Return what a supervisor would tell the worker."""
    return Job(adapter, [], path, "pod-uid", "pod-0", 0, NONCE, PROOF.hex(), False)


class BareWorker:
    """A worker process that dials `path`."""

    def __init__(self, folder: Path, path: str, adapter: str, slots: int = 1, **env: str) -> None:
        descriptor = os.memfd_create("page")
        os.ftruncate(descriptor, PAGE_BYTES)
        self.page = Page(descriptor)
        self.report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = dict(os.environ) | {"SNAKEPIT_SLOTS": str(slots)} | env
        sources = env.get("SNAKEPIT_SOURCES", str(TESTS.parent / "src"))
        environment["PYTHONPATH"] = os.pathsep.join([sources, str(TESTS / "seeded"), str(TESTS), str(folder)])
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, path, str(descriptor), str(theirs.fileno()), adapter],
                pass_fds=(descriptor, theirs.fileno()),
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        os.close(descriptor)
        theirs.close()

    def close(self) -> None:
        """End the process for good."""
        self.process.kill()
        self.process.wait()
        self.report.close()
        self.page.close()


def expect(router: FakeRouter) -> None:
    """Let a bare worker in. Two in a row have the same incarnation: the router forgets the first."""
    router.workers.pop(NONCE, None)
    router.proofs[NONCE] = PROOF
    router.slots[0] = NONCE


def main(path: str, page: str, report: str, adapter: str) -> int:
    """Be the worker."""
    from snakepit.worker import process
    from snakepit.worker.load import load

    return process.run(job(path, adapter), lambda: load(adapter), socket.socket(fileno=int(report)), Page(int(page)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
