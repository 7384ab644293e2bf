"""The server object: what it takes, what it refuses, and what it says to the worker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import cases_pb2_grpc
import grpc
import pytest
from google.protobuf import descriptor_pb2

import snakepit
from servicer.plain import Plain
from snakepit.worker import tools
from snakepit.worker.failure import DeclarationError

METHODS = ["Chat", "Lookup", "Many", "One", "Sum"]
SOURCES = Path(__file__).resolve().parents[2] / "src"


def plain_server(**more: Any) -> Any:
    server = snakepit.server(**more)
    cases_pb2_grpc.add_PlainServicer_to_server(Plain(), server)
    return server


def unary(_: Any, context: Any) -> Any:
    return b"answer"


class Own(grpc.GenericRpcHandler):
    """A generic handler that does not say what it serves."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(unary) if details.method == "/own.Service/Method" else None


class Named(Own, grpc.ServiceRpcHandler):
    """One that names its service, whose descriptor says the rest."""

    def service_name(self) -> str:
        return "servicer.cases.Coroutines"

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(unary)


def test_methods_of_generated_code() -> None:
    methods = plain_server().methods
    assert [method.path for method in methods] == [f"/servicer.cases.Plain/{name}" for name in METHODS]
    kinds = [(method.client_streaming, method.server_streaming) for method in methods]
    assert kinds == [(True, True), (False, False), (False, True), (False, False), (True, False)]
    assert [method.path[-6:] for method in methods if method.idempotent] == ["Lookup"]


def test_older_generated_code_registers_generic_handlers_only() -> None:
    server = snakepit.server(handlers=[grpc.method_handlers_generic_handler("a.B", {"C": _handler()})])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"D": _handler()}),))
    assert [method.path for method in server.methods] == ["/a.B/C", "/a.B/D"]


def _handler() -> Any:
    return grpc.unary_unary_rpc_method_handler(unary)


def test_generic_handlers_of_ones_own() -> None:
    server = snakepit.server(handlers=[Own()], methods=["/own.Service/Method"])
    assert [method.path for method in server.methods] == ["/own.Service/Method"]
    assert server.file_descriptors == []
    named = snakepit.server(handlers=[Named()])
    assert "/servicer.cases.Coroutines/ReadAndWrite" in [method.path for method in named.methods]
    with pytest.raises(DeclarationError, match=r"server\(methods="):
        snakepit.server(handlers=[Own()]).methods  # noqa: B018
    with pytest.raises(DeclarationError, match="which no handler serves"):
        snakepit.server(handlers=[Own()], methods=["/own.Service/Other"]).methods  # noqa: B018
    with pytest.raises(AttributeError, match='does not have "service" method'):
        snakepit.server(handlers=[object()])


def test_descriptors_come_with_what_they_import() -> None:
    server = snakepit.server()
    cases_pb2_grpc.add_PlainServicer_to_server(Plain(), server)
    cases_pb2_grpc.add_CoroutinesServicer_to_server(object.__new__(cases_pb2_grpc.CoroutinesServicer), server)
    files = [descriptor_pb2.FileDescriptorProto.FromString(raw) for raw in server.file_descriptors]
    assert [file.name for file in files] == ["google/protobuf/duration.proto", "cases.proto"]
    assert [service.name for service in files[-1].service] == ["Plain", "Coroutines"]


def test_descriptors_that_would_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from snakepit.servicer import descriptors

    monkeypatch.setattr(descriptors, "_MAX_BYTES", 10)
    assert plain_server().file_descriptors == []


def test_what_a_program_with_a_server_of_its_own_calls_is_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    server = plain_server(
        thread_pool=futures.ThreadPoolExecutor(4),
        options=(("grpc.max_send_message_length", -1),),
        maximum_concurrent_rpcs=10,
        compression=grpc.Compression.Gzip,
    )
    assert server.add_insecure_port("[::]:8080") == 8080
    assert server.add_insecure_port("[::]:0") == 50051
    assert server.add_insecure_port("unix:/tmp/socket") == 50051
    assert server.add_secure_port("localhost:443", object()) == 443
    server.start()
    assert not server.wait_for_termination(timeout=5)
    assert server.stop(None).wait(0)

    async def aio() -> None:
        await server.start()
        assert await server.wait_for_termination() is False
        await server.stop(5)

    asyncio.run(aio())
    assert capfd.readouterr().err.count("do nothing here") == 1


def test_the_arguments_of_both_servers() -> None:
    pool = futures.ThreadPoolExecutor(1)
    assert plain_server(migration_thread_pool=pool).methods
    assert snakepit.server(pool, [Own()], methods=["/own.Service/Method"]).methods
    with pytest.raises(TypeError, match="max_workers"):
        snakepit.server(max_workers=10)  # type: ignore[arg-type]


def test_no_method_after_serving_began() -> None:
    server = plain_server()
    assert server.methods
    with pytest.raises(DeclarationError, match="has begun to serve"):
        server.add_registered_method_handlers("a.B", {"C": _handler()})
    with pytest.raises(DeclarationError, match="has begun to serve"):
        server.add_generic_rpc_handlers([Own()])


def test_a_server_without_methods_says_what_to_do() -> None:
    with pytest.raises(DeclarationError, match="not in main"):
        tools.instantiate(snakepit.server(), [])


def test_a_path_that_no_caller_can_name_is_refused() -> None:
    server = snakepit.server()
    server.add_registered_method_handlers("", {"C": _handler()})
    with pytest.raises(DeclarationError, match="no method's path"):
        server.methods  # noqa: B018


def test_as_an_adapter() -> None:
    def setup() -> None:
        pass

    adapter = tools.instantiate(plain_server(setup=setup, thread_safe=True), [])
    assert len(adapter.methods) == len(METHODS)
    assert adapter.tools == []
    assert adapter.thread_safe
    assert adapter.hook("setup") is setup
    assert adapter.hook("teardown") is None


def test_overlapping_calls_must_be_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_SLOTS", "4")
    with pytest.raises(tools.ThreadSafetyNotDeclared, match=r"snakepit.server\(thread_safe=True\)"):
        tools.instantiate(plain_server(), [])
    assert tools.instantiate(plain_server(thread_safe=True), []).methods


def test_contexts_are_grpcs() -> None:
    from snakepit.servicer.coroutine_context import CoroutineContext

    assert issubclass(snakepit.servicer.ServicerContext, grpc.ServicerContext)
    assert issubclass(CoroutineContext, grpc.aio.ServicerContext)
    pairs = {grpc.ServicerContext: snakepit.servicer.ServicerContext, grpc.aio.ServicerContext: CoroutineContext}
    for theirs, ours in pairs.items():
        missing = [name for name in vars(theirs) if not name.startswith("_") and not hasattr(ours, name)]
        assert missing == []


def test_without_grpcio_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['grpc'] = None; import snakepit; snakepit.server"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, check=False
    )
    assert ran.stderr.splitlines()[-1] == (
        "ImportError: snakepit.server() needs grpcio: pip install 'snakepit-k8s[client]'"
    )


def test_nothing_of_grpc_is_loaded_without_a_server() -> None:
    code = (
        "import sys, snakepit, snakepit.worker.tools; assert 'grpc' not in sys.modules;"
        "snakepit.server; assert 'grpc' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SOURCES)})
