"""Protobuf classes of Snakepit, built from embedded descriptors in a pool of their own.

A private pool cannot collide with what an adapter registers, and needs no generated code that fits one protobuf
version only: it works with protobuf 4.21 and later, in C and in pure Python. The classes are typed `Any`, because
they exist at run time only.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory

from snakepit import _descriptors

_POOL: Final[Any] = descriptor_pool.DescriptorPool()
for _file in _descriptors.FILES:
    _POOL.AddSerializedFile(_file)


def message_class(full_name: str) -> Any:
    """Return the class of the message with this full name."""
    descriptor = _POOL.FindMessageTypeByName(full_name)
    get_class = getattr(message_factory, "GetMessageClass", None)
    if get_class is not None:
        return get_class(descriptor)
    factory: Any = message_factory.MessageFactory(_POOL)
    return factory.GetPrototype(descriptor)


def enum_numbers(full_name: str) -> dict[str, int]:
    """Return the names and numbers of the enum with this full name."""
    return {value.name: value.number for value in _POOL.FindEnumTypeByName(full_name).values}


_RPC: Final = "snakepit.v1alpha1."
_BRIDGE: Final = "snakepit.bridge.v1alpha1."

# The client API: api/rpc/v1alpha1/pool.proto.
Struct: Final[Any] = message_class("google.protobuf.Struct")
ExecuteRequest: Final[Any] = message_class(_RPC + "ExecuteRequest")
ExecuteResponse: Final[Any] = message_class(_RPC + "ExecuteResponse")
ExecuteStreamResponse: Final[Any] = message_class(_RPC + "ExecuteStreamResponse")
Progress: Final[Any] = message_class(_RPC + "Progress")
Value: Final[Any] = message_class(_RPC + "Value")
RemoteError: Final[Any] = message_class(_RPC + "RemoteError")
OpenSessionRequest: Final[Any] = message_class(_RPC + "OpenSessionRequest")
OpenSessionResponse: Final[Any] = message_class(_RPC + "OpenSessionResponse")
CloseSessionRequest: Final[Any] = message_class(_RPC + "CloseSessionRequest")
CloseSessionResponse: Final[Any] = message_class(_RPC + "CloseSessionResponse")
GetSessionRequest: Final[Any] = message_class(_RPC + "GetSessionRequest")
GetSessionResponse: Final[Any] = message_class(_RPC + "GetSessionResponse")
ListToolsRequest: Final[Any] = message_class(_RPC + "ListToolsRequest")
ListToolsResponse: Final[Any] = message_class(_RPC + "ListToolsResponse")


def bridge_class(name: str) -> Any:
    """Return the class of a message of the bridge."""
    return message_class(_BRIDGE + name)
