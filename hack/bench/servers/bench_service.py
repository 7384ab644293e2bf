"""The servicer in workers behind the router: `bench_service:server`. One line differs from a plain grpcio server."""

from __future__ import annotations

import echo_pb2_grpc
import snakepit
from echo_servicer import Echo

server = snakepit.server()
echo_pb2_grpc.add_EchoServicer_to_server(Echo(), server)
