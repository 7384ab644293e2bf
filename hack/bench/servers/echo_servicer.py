"""The servicer that both sides of the comparison run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import echo_pb2
import echo_pb2_grpc
import grpc

CHUNKS = 10


class Echo(echo_pb2_grpc.EchoServicer):
    """Answers with what it gets; plain functions."""

    def Unary(self, request: echo_pb2.Payload, context: grpc.ServicerContext) -> echo_pb2.Payload:  # noqa: N802
        """Answer once."""
        return echo_pb2.Payload(data=request.data)

    def Chunks(self, request: echo_pb2.Payload, context: grpc.ServicerContext) -> Iterator[echo_pb2.Payload]:  # noqa: N802
        """Answer ten times."""
        for _ in range(CHUNKS):
            yield echo_pb2.Payload(data=request.data)


class AsyncEcho(echo_pb2_grpc.EchoServicer):
    """The same as coroutines."""

    async def Unary(self, request: echo_pb2.Payload, context: grpc.aio.ServicerContext) -> echo_pb2.Payload:  # noqa: N802
        """Answer once."""
        return echo_pb2.Payload(data=request.data)

    async def Chunks(  # noqa: N802
        self, request: echo_pb2.Payload, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[echo_pb2.Payload]:
        """Answer ten times."""
        for _ in range(CHUNKS):
            yield echo_pb2.Payload(data=request.data)
