"""A stand-in for router and bridge inside one process: serves a snakepit.Server's methods to grpcio's client."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from snakepit.context import Session, Worker
from snakepit.worker.wire import CancelledCallError, Metadata

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Loop:
    """One asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class GatewayWire:
    """A CallWire over one call of grpcio's server."""

    session: Session | None = None
    worker = Worker("pod-0", 0)
    request_id = "r-1"

    def __init__(self, requests: Iterator[bytes], context: Any, loop: Loop) -> None:
        self.peer = context.peer()
        self.metadata: Metadata = context.invocation_metadata()
        remaining = context.time_remaining()
        self.deadline = None if remaining > 1e9 else time.monotonic() + remaining
        self.answers: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
        self.finished: tuple[int, str, Metadata] | None = None
        self._requests = requests
        self._context = context
        self._loop = loop
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []
        if not context.add_callback(self.end):
            self.end()

    def end(self) -> None:
        with self._lock:
            if self.finished is None:
                self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        if self._cancelled:
            while not self.answers.empty():
                self.answers.get_nowait()
            self.answers.put(None)

    def receive(self) -> bytes | None:
        try:
            return next(self._requests, None)
        except grpc.RpcError:
            raise CancelledCallError from None

    def try_receive(self) -> tuple[bool, bytes | None]:
        return False, None

    def send_headers(self, metadata: Metadata) -> None:
        if self._cancelled:
            raise CancelledCallError
        self._context.send_initial_metadata(tuple(metadata))

    def send(self, message: bytes) -> None:
        assert self.finished is None
        while True:
            if self._cancelled:
                raise CancelledCallError
            try:
                self.answers.put(message, timeout=0.02)
                return
            except queue.Full:
                continue

    def try_send(self, message: bytes) -> bool:
        if self._cancelled:
            raise CancelledCallError
        try:
            self.answers.put_nowait(message)
        except queue.Full:
            return False
        return True

    def finish(
        self,
        code: int,
        message: str = "",
        trailers: Metadata = (),
        answer: bytes | None = None,
        headers: Metadata = (),
    ) -> None:
        assert self.finished is None
        if answer is not None:
            try:
                self.send(answer)
            except CancelledCallError:
                pass
        with self._lock:
            self.finished = (code, message, trailers)
        while not self._cancelled:
            try:
                self.answers.put(None, timeout=0.02)
                return
            except queue.Full:
                continue

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def on_cancel(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self._cancelled:
                return False
            self._callbacks.append(callback)
            return True

    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop.loop

    def run_coroutine(self, awaitable: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(awaitable, self._loop.loop)
        if not self.on_cancel(future.cancel):
            future.cancel()
        try:
            return future.result()
        except futures.CancelledError:
            raise asyncio.CancelledError from None


class Gateway(grpc.GenericRpcHandler):
    """Serves every method of a server; close it at the end."""

    def __init__(self, server: Any) -> None:
        self._methods = {method.path: method for method in server.methods}
        self._loop = Loop()
        self._handlers: list[threading.Thread] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(32), options=(("grpc.max_receive_message_length", -1),))
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()
        for handler in self._handlers:
            handler.join()
        self._loop.close()

    def service(self, details: Any) -> Any:
        method = self._methods.get(details.method)
        if method is None:
            return None

        def relay(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            wire = GatewayWire(requests, context, self._loop)
            handler = threading.Thread(target=method.run, args=(wire,))
            self._handlers.append(handler)
            handler.start()
            while (answer := wire.answers.get()) is not None:
                yield answer
            if wire.finished is None:
                return
            code, message, trailers = wire.finished
            context.set_trailing_metadata(tuple(trailers))
            context.set_code(_CODES[code])
            context.set_details(message)

        return grpc.stream_stream_rpc_method_handler(relay)
