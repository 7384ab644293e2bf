"""Snakepit for Kubernetes: adapters for workers, and the client that calls them.

The client needs grpcio (`pip install 'snakepit-k8s[client]'`) and is imported when first used,
so that workers never load it.
"""

from __future__ import annotations

from typing import Any

from snakepit import errors
from snakepit.adapter import Adapter, Progress, tool
from snakepit.context import Context, Session

__version__ = "0.1.0"
__all__ = ["Adapter", "Context", "Progress", "Session", "__version__", "errors", "tool"]


# What the client package offers here.
_CLIENT = frozenset(("AsyncClient", "Client", "DeadlineExceeded", "RemoteError", "SessionLost", "SnakepitError"))


def __getattr__(name: str) -> Any:
    if name not in _CLIENT:
        raise AttributeError(f"module 'snakepit' has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module("snakepit.client"), name)
    except ModuleNotFoundError as error:
        if error.name != "grpc":
            raise
        raise ImportError(f"snakepit.{name} needs grpcio: pip install 'snakepit-k8s[client]'") from None
