"""Fixtures: the same servicers behind grpcio's servers and behind ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import pytest

from servicer.stubs import generate

generate()

if TYPE_CHECKING:
    from servicer.stage import Stage


@pytest.fixture(scope="session")
def sync_channel() -> Iterator[grpc.Channel]:
    """A channel to grpc.server with the servicer of plain functions."""
    import cases_pb2_grpc

    from servicer.plain import Plain
    from servicer.servers import sync_server

    with sync_server(lambda server: cases_pb2_grpc.add_PlainServicer_to_server(Plain(), server)) as channel:
        yield channel


@pytest.fixture(scope="session")
def aio_channel() -> Iterator[grpc.Channel]:
    """A channel to grpc.aio.server with the servicer of coroutines."""
    import cases_pb2_grpc

    from servicer.coroutines import Coroutines
    from servicer.servers import aio_server

    with aio_server(lambda server: cases_pb2_grpc.add_CoroutinesServicer_to_server(Coroutines(), server)) as channel:
        yield channel


@pytest.fixture(scope="session")
def gateway_channel() -> Iterator[grpc.Channel]:
    """A channel to our server, with a stand-in for router and bridge."""
    from servicer.app import server
    from servicer.gateway import Gateway
    from servicer.servers import channel_to

    gateway = Gateway(server)
    with channel_to(gateway.port) as channel:
        yield channel
    gateway.close()


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """The real router, with a real worker of our server behind it."""
    yield from _stage("servicer.app:server", slots=1)


def _stage(adapter: str, slots: int) -> Iterator[Stage]:
    from servicer.stage import Stage, router_binary

    binary = router_binary()
    if binary is None:
        pytest.skip("left out: the stories with the real router; they need Go, or bin/router")
    with Stage(binary, adapter, "workers: 1\n", slots) as stage:
        stage.wait_ready()
        yield stage
        print(stage.output())


@pytest.fixture(scope="session")
def router_channel(stage: Stage) -> Iterator[grpc.Channel]:
    """A channel to the real router."""
    from servicer.servers import channel_to

    with channel_to(stage.port) as channel:
        yield channel


@pytest.fixture(scope="session")
def threads_channel() -> Iterator[grpc.Channel]:
    """A channel to a real router whose only worker runs four calls at a time."""
    from servicer.servers import channel_to

    for stage in _stage("servicer.app:parallel", slots=4):
        with channel_to(stage.port) as channel:
            yield channel


@pytest.fixture(params=["gateway", "router", "threads"])
def ours(request: pytest.FixtureRequest) -> grpc.Channel:
    """A channel to our server: in this process, and the whole way, with one call at a time and with several."""
    channel: grpc.Channel = request.getfixturevalue(f"{request.param}_channel")
    return channel
