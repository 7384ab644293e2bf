"""An echo in Ray Serve, one replica, in its HAProxy mode. Prints `listening PORT` when it serves; ends on SIGTERM.

GET answers with the replica's process id, POST with what it got.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

FOLDER = Path(os.environ["TMPDIR"])
# Read when ray.serve is imported, here and in every process that it starts.
os.environ.update(
    RAY_SERVE_ENABLE_HA_PROXY="1",
    RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=str(FOLDER / "haproxy.cfg"),
    RAY_SERVE_HAPROXY_SOCKET_PATH=str(FOLDER / "haproxy.sock"),
    RAY_SERVE_HAPROXY_SERVER_STATE_BASE=str(FOLDER),
    RAY_SERVE_HAPROXY_SERVER_STATE_FILE=str(FOLDER / "haproxy.state"),
    RAY_USAGE_STATS_ENABLED="0",
    # The name is of its time: 0 makes every process of Ray use the loopback.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
)

import ray  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
class Echo:
    """Answers with what it gets."""

    async def __call__(self, request: Request) -> Response:
        """Answer once."""
        if request.method == "GET":
            return Response(str(os.getpid()))
        return Response(await request.body())


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    port = free_port()
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(FOLDER / "ray"),
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Echo.bind())
    # ray.init took the signal for itself.
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print("listening", port, flush=True)
    ended.wait()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
