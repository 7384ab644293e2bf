"""The client: calls the tools of a pool. Needs grpcio: `pip install 'snakepit-k8s[client]'`.

    from snakepit import Client, SessionLost

    with Client("demo") as client, client.session("user-42") as session:
        print(session.count())

The exceptions can be imported without grpcio; `Client` and what it returns load it when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from snakepit.client.errors import (
    AlreadyExecuted,
    CallTimeout,
    Closed,
    DeadlineExceeded,
    DeadlineUnreachable,
    Draining,
    InvalidArguments,
    MessageTooLarge,
    MethodUnknown,
    NotReady,
    QueueFull,
    QueueTimeout,
    Recovering,
    Refused,
    RequestQuarantined,
    SessionError,
    SessionExpired,
    SessionLost,
    SessionUnknown,
    SnakepitError,
    ToolUnknown,
    TransportError,
    WorkerBusy,
    WorkerDied,
)
from snakepit.client.remote import RemoteError

if TYPE_CHECKING:
    from snakepit.client.caller import Stream
    from snakepit.client.client import Client, Tool
    from snakepit.client.session import Session

__all__ = [
    "AlreadyExecuted",
    "CallTimeout",
    "Client",
    "Closed",
    "DeadlineExceeded",
    "DeadlineUnreachable",
    "Draining",
    "InvalidArguments",
    "MessageTooLarge",
    "MethodUnknown",
    "NotReady",
    "QueueFull",
    "QueueTimeout",
    "Recovering",
    "Refused",
    "RemoteError",
    "RequestQuarantined",
    "Session",
    "SessionError",
    "SessionExpired",
    "SessionLost",
    "SessionUnknown",
    "SnakepitError",
    "Stream",
    "Tool",
    "ToolUnknown",
    "TransportError",
    "WorkerBusy",
    "WorkerDied",
]

_LATER: Final = {
    "Client": "snakepit.client.client",
    "Session": "snakepit.client.session",
    "Stream": "snakepit.client.caller",
    "Tool": "snakepit.client.client",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'snakepit.client' has no attribute {name!r}")
    try:
        importlib.import_module("grpc")
    except ImportError as problem:
        raise ImportError(f"snakepit.{name} needs grpcio ({problem}): pip install 'snakepit-k8s[client]'") from None
    return getattr(importlib.import_module(_LATER[name]), name)
