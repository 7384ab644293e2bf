"""gRPC services, unchanged, in a worker: `server = snakepit.server()` takes the place of `grpc.server(...)`.

What grpcio's server does with sockets and threads, the router and the worker do here. This package does the rest: it
takes what `add_XServicer_to_server` registers, and serves one call of it over a CallWire so that the caller sees what
grpcio would have shown. Handlers written as plain functions get what `grpc.server` gives them, coroutines what
`grpc.aio.server` gives them. Nothing here starts a thread or a channel of gRPC.
"""

from __future__ import annotations

from snakepit.servicer.context import ServicerContext
from snakepit.servicer.registration import Server, server

__all__ = ["Server", "ServicerContext", "server"]
