"""The adapter of these tests: `servicer.app:server`."""

from __future__ import annotations

import os
import sys

sys.path[:0] = [folder for folder in os.environ.get("SNAKEPIT_TEST_STUBS", "").split(os.pathsep) if folder]

import cases_pb2_grpc  # noqa: E402

import snakepit  # noqa: E402
from servicer.coroutines import Coroutines  # noqa: E402
from servicer.interceptors import Aio, Blocking, generic, other, other_coroutine  # noqa: E402
from servicer.plain import Plain  # noqa: E402

PLAIN = generic("Plain", other, Plain())
COROUTINES = generic("Coroutines", other_coroutine, Coroutines())


def session_start(ctx: snakepit.Context) -> None:
    """As an adapter's hook."""
    assert ctx.session is not None
    ctx.session.state.started = "by session_start"


server = snakepit.server(session_start=session_start)
cases_pb2_grpc.add_PlainServicer_to_server(Plain(), server)
cases_pb2_grpc.add_CoroutinesServicer_to_server(Coroutines(), server)
server.add_insecure_port("[::]:50051")
server.start()
server.wait_for_termination()

blocking = snakepit.server(handlers=[PLAIN], interceptors=[Blocking("first"), Blocking("second")])
aio = snakepit.server(handlers=[COROUTINES], interceptors=[Aio("first"), Aio("second")])
# Several calls at a time in one process.
parallel = snakepit.server(thread_safe=True, session_start=session_start)
cases_pb2_grpc.add_PlainServicer_to_server(Plain(), parallel)
cases_pb2_grpc.add_CoroutinesServicer_to_server(Coroutines(), parallel)
# Of both kinds, in front of handlers of both kinds.
mixed = snakepit.server(interceptors=[Blocking("first"), Aio("second")])
mixed.add_generic_rpc_handlers([PLAIN, COROUTINES])
