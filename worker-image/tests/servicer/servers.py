"""grpcio's own servers, sync and aio, as tests compare with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
Register = Callable[[Any], None]


@contextmanager
def channel_to(port: int) -> Iterator[grpc.Channel]:
    # Channels with the same arguments share their connection; a test must not meet another one's.
    options = (*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        yield channel


@contextmanager
def sync_server(register: Register, interceptors: Sequence[Any] = ()) -> Iterator[grpc.Channel]:
    """Run grpc.server."""
    server = grpc.server(futures.ThreadPoolExecutor(32), interceptors=interceptors, options=_UNLIMITED)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with channel_to(port) as channel:
            yield channel
    finally:
        # Not until its end: calls that grpc.server has lost track of would hold it for ever.
        server.stop(0)


@contextmanager
def aio_server(register: Register, interceptors: Sequence[Any] = ()) -> Iterator[grpc.Channel]:
    """Run grpc.aio.server on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[Any, int]:
        server = grpc.aio.server(interceptors=interceptors, options=_UNLIMITED)
        register(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        with channel_to(port) as channel:
            yield channel
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
