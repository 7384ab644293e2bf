"""Interceptors for the tests, of both kinds; the caller's metadata says what they shall do."""

from __future__ import annotations

from typing import Any

import grpc

from servicer.plain import Reply, seen

KEY = "x-intercept"


def wish(details: Any) -> str:
    return dict(details.invocation_metadata).get(KEY, "")


def _abort(request: Any, context: Any) -> Any:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "not for you")


async def _abort_coroutine(request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not for you")


ABORT = grpc.unary_unary_rpc_method_handler(_abort)
ABORT_COROUTINE = grpc.unary_unary_rpc_method_handler(_abort_coroutine)


class _Renamed:
    """The details of another call."""

    def __init__(self, details: Any) -> None:
        self.method = details.method.rpartition("/")[0] + "/Other"
        self.invocation_metadata = details.invocation_metadata


class Blocking(grpc.ServerInterceptor):
    """Does what `wish` says, for plain functions."""

    def __init__(self, name: str) -> None:
        self._name = name

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        asked = wish(details)
        if asked == f"raise-{self._name}":
            raise ValueError("in the interceptor")
        if asked == f"none-{self._name}":
            return None
        if asked == f"abort-{self._name}":
            return ABORT
        if asked == f"rename-{self._name}":
            details = _Renamed(details)
        if asked == f"variable-{self._name}":
            seen.set(f"set by {self._name}")
        handler = continuation(details)
        if handler is None or asked != f"wrap-{self._name}":
            return handler

        def wrapped(request: Any, context: Any) -> Any:
            context.set_trailing_metadata((("x-method", details.method), ("x-name", self._name)))
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(wrapped, handler.request_deserializer, handler.response_serializer)


class Aio(grpc.aio.ServerInterceptor):
    """Does what `wish` says, for coroutines."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        asked = wish(details)
        if asked == f"raise-{self._name}":
            raise ValueError("in the interceptor")
        if asked == f"none-{self._name}":
            return None
        if asked == f"abort-{self._name}":
            return ABORT_COROUTINE
        if asked == f"rename-{self._name}":
            details = _Renamed(details)
        if asked == f"variable-{self._name}":
            seen.set(f"set by {self._name}")
        handler = await continuation(details)
        if handler is None or asked != f"wrap-{self._name}":
            return handler

        async def wrapped(request: Any, context: Any) -> Any:
            context.set_trailing_metadata((("x-method", details.method), ("x-name", self._name)))
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(wrapped, handler.request_deserializer, handler.response_serializer)


def other(request: Any, context: Any) -> Any:
    return Reply(text="another method")


async def other_coroutine(request: Any, context: Any) -> Any:
    return Reply(text="another method")


def generic(service: str, handler: Any, servicer: Any) -> grpc.GenericRpcHandler:
    """A generic handler as older generated code registers it, so that methods can be renamed."""
    import cases_pb2

    read, write = cases_pb2.Ask.FromString, cases_pb2.Reply.SerializeToString
    kinds = {"One": grpc.unary_unary_rpc_method_handler, "Many": grpc.unary_stream_rpc_method_handler}
    kinds |= {"Sum": grpc.stream_unary_rpc_method_handler, "Chat": grpc.stream_stream_rpc_method_handler}
    methods = {name: kind(getattr(servicer, name), read, write) for name, kind in kinds.items()}
    methods["Other"] = grpc.unary_unary_rpc_method_handler(handler, read, write)
    return grpc.method_handlers_generic_handler(f"servicer.cases.{service}", methods)
