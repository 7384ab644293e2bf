"""Snakepit for Kubernetes: adapters and gRPC servicers for workers, and the client that calls them.

The client and `snakepit.server()` need grpcio (`pip install 'snakepit-k8s[client]'`) and are imported when first used,
so that workers without servicers never load it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from snakepit import errors
from snakepit.adapter import Adapter, Progress, tool
from snakepit.context import Context, Session

if TYPE_CHECKING:
    from snakepit.client import (  # noqa: I001  (one re-export a line)
        AlreadyExecuted as AlreadyExecuted,
        CallTimeout as CallTimeout,
        Client as Client,
        Closed as Closed,
        DeadlineExceeded as DeadlineExceeded,
        DeadlineUnreachable as DeadlineUnreachable,
        Draining as Draining,
        InvalidArguments as InvalidArguments,
        MessageTooLarge as MessageTooLarge,
        MethodUnknown as MethodUnknown,
        NotReady as NotReady,
        QueueFull as QueueFull,
        QueueTimeout as QueueTimeout,
        Recovering as Recovering,
        Refused as Refused,
        RemoteError as RemoteError,
        RequestQuarantined as RequestQuarantined,
        SessionError as SessionError,
        SessionExpired as SessionExpired,
        SessionLost as SessionLost,
        SessionUnknown as SessionUnknown,
        SnakepitError as SnakepitError,
        ToolUnknown as ToolUnknown,
        TransportError as TransportError,
        WorkerBusy as WorkerBusy,
        WorkerDied as WorkerDied,
    )
    from snakepit.servicer import server as server

__version__ = "0.1.0"
__all__ = ["Adapter", "Context", "Progress", "Session", "__version__", "errors", "server", "tool"]


def __getattr__(name: str) -> Any:
    """Offer the server and what the client package has; grpcio is loaded for those that need it only."""
    if name == "server":
        try:
            return importlib.import_module("snakepit.servicer").server
        except ModuleNotFoundError as error:
            if error.name != "grpc":
                raise
            raise ImportError("snakepit.server() needs grpcio: pip install 'snakepit-k8s[client]'") from error
    if not name.startswith("_"):
        client = importlib.import_module("snakepit.client")
        if name in client.__all__:
            return getattr(client, name)
    raise AttributeError(f"module 'snakepit' has no attribute {name!r}")
