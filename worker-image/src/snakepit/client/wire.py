"""The protobuf messages that the client reads beside the pool API: google.rpc error details and the health service.

They are declared here by hand, in a pool of their own, so that the client needs neither googleapis-common-protos nor
grpcio-health-checking. Only fields that the client uses are declared; protobuf skips the rest.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE: Final = "snakepit.client.wire"
_FIELD: Final[Any] = descriptor_pb2.FieldDescriptorProto
_STRING: Final[int] = _FIELD.TYPE_STRING
_BYTES: Final[int] = _FIELD.TYPE_BYTES
_INT32: Final[int] = _FIELD.TYPE_INT32
_INT64: Final[int] = _FIELD.TYPE_INT64

# Message → (field, number, type or message name, repeated).
_MESSAGES: Final[dict[str, tuple[tuple[str, int, int | str, bool], ...]]] = {
    # google.protobuf.Any and Duration
    "Any": (("type_url", 1, _STRING, False), ("value", 2, _BYTES, False)),
    "Duration": (("seconds", 1, _INT64, False), ("nanos", 2, _INT32, False)),
    # google.rpc.Status and its details
    "Status": (("code", 1, _INT32, False), ("message", 2, _STRING, False), ("details", 3, "Any", True)),
    "Entry": (("key", 1, _STRING, False), ("value", 2, _STRING, False)),
    "ErrorInfo": (
        ("reason", 1, _STRING, False),
        ("domain", 2, _STRING, False),
        ("metadata", 3, "Entry", True),
    ),
    "RetryInfo": (("retry_delay", 1, "Duration", False),),
    "DebugInfo": (("stack_entries", 1, _STRING, True), ("detail", 2, _STRING, False)),
    "FieldViolation": (("field", 1, _STRING, False), ("description", 2, _STRING, False)),
    "BadRequest": (("field_violations", 1, "FieldViolation", True),),
    # grpc.health.v1; the status is an enum, which is an int32 on the wire
    "HealthCheckRequest": (("service", 1, _STRING, False),),
    "HealthCheckResponse": (("status", 1, _INT32, False),),
}


def _file() -> Any:
    """Return the descriptor of all messages. A map field is a repeated entry on the wire, and declared as one."""
    file = descriptor_pb2.FileDescriptorProto(name="snakepit/client/wire.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            field: Any = message.field.add(name=field_name, number=number)
            field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            else:
                field.type = kind
    return file


_POOL: Final[Any] = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_file().SerializeToString())


def _message_class(name: str) -> Any:
    descriptor = _POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    get_class = getattr(message_factory, "GetMessageClass", None)
    if get_class is not None:
        return get_class(descriptor)
    factory: Any = message_factory.MessageFactory(_POOL)  # protobuf before 4.22
    return factory.GetPrototype(descriptor)


Status: Final[Any] = _message_class("Status")
ErrorInfo: Final[Any] = _message_class("ErrorInfo")
RetryInfo: Final[Any] = _message_class("RetryInfo")
DebugInfo: Final[Any] = _message_class("DebugInfo")
BadRequest: Final[Any] = _message_class("BadRequest")
HealthCheckRequest: Final[Any] = _message_class("HealthCheckRequest")
HealthCheckResponse: Final[Any] = _message_class("HealthCheckResponse")
