"""An echo in LitServe, one worker. Prints `listening PORT` before it serves; ends on SIGTERM.

By default the death of a worker ends the whole server; here workers are restarted, so that it recovers.
"""

from __future__ import annotations

import os
import socket
import sys

import litserve


class Echo(litserve.LitAPI):
    """Answers with what it gets, or with its process id."""

    def setup(self, device: str) -> None:
        """Prepare nothing."""

    def decode_request(self, request: dict[str, str]) -> str:
        """Take the payload."""
        return request["payload"]

    def predict(self, payload: str) -> str:
        """Answer once."""
        return str(os.getpid()) if payload == "pid" else payload

    def encode_response(self, output: str) -> dict[str, str]:
        """Give the payload."""
        return {"payload": output}


def main() -> int:
    """Serve until SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = litserve.LitServer(Echo(), accelerator="cpu", workers_per_device=1, restart_workers=True)
    print("listening", port, flush=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
