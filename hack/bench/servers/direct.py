"""A plain grpcio server, one process: `direct.py sync THREADS` or `direct.py aio`. Prints `listening PORT`.

Options of grpcio are left at their defaults: this is the server that a user would write.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent import futures

import echo_pb2_grpc
import grpc
from echo_servicer import AsyncEcho, Echo

ADDRESS = "127.0.0.1:0"


def serve_sync(threads: int) -> None:
    """Serve with a pool of threads until a signal ends the process."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=threads))
    echo_pb2_grpc.add_EchoServicer_to_server(Echo(), server)
    port = server.add_insecure_port(ADDRESS)
    server.start()
    print("listening", port, flush=True)
    server.wait_for_termination()


async def serve_aio() -> None:
    """Serve on one event loop until a signal ends the process."""
    server = grpc.aio.server()
    echo_pb2_grpc.add_EchoServicer_to_server(AsyncEcho(), server)
    port = server.add_insecure_port(ADDRESS)
    await server.start()
    print("listening", port, flush=True)
    await server.wait_for_termination()


def main(arguments: list[str]) -> int:
    """Serve as asked."""
    match arguments:
        case ["sync", threads] if threads.isdigit() and 1 <= int(threads) <= 256:
            serve_sync(int(threads))
        case ["aio"]:
            asyncio.run(serve_aio())
        case _:
            print("usage: direct.py sync THREADS | direct.py aio", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
