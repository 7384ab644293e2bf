"""The protobuf messages of the bridge: what is rare, and therefore not a fixed struct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from snakepit import messages

Hello: Final[Any] = messages.bridge_class("Hello")
Welcome: Final[Any] = messages.bridge_class("Welcome")
Goodbye: Final[Any] = messages.bridge_class("Goodbye")
CallInfo: Final[Any] = messages.bridge_class("CallInfo")
FinishInfo: Final[Any] = messages.bridge_class("FinishInfo")
HeadersInfo: Final[Any] = messages.bridge_class("HeadersInfo")
SessionInfo: Final[Any] = messages.bridge_class("SessionInfo")
SessionEnd: Final[Any] = messages.bridge_class("SessionEnd")
ToSupervisor: Final[Any] = messages.bridge_class("ToSupervisor")
FromSupervisor: Final[Any] = messages.bridge_class("FromSupervisor")
SupervisorState: Final[Any] = messages.bridge_class("SupervisorState")


def metadata_of(info: Any) -> list[tuple[str, str | bytes]]:
    """Return a CallInfo's metadata for handlers: without the router's own, whose keys begin with a colon."""
    if info is None:
        return []
    return [
        (entry.key, entry.value if entry.key.endswith("-bin") else entry.value.decode("utf-8", "replace"))
        for entry in info.metadata
        if not entry.key.startswith(":")
    ]


def entries(metadata: Sequence[tuple[str, str | bytes]]) -> list[dict[str, Any]]:
    """Return metadata as the fields of Metadatum messages."""
    return [{"key": key, "value": value if isinstance(value, bytes) else value.encode()} for key, value in metadata]
