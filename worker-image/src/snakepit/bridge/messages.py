"""The protobuf messages of the bridge: what is rare, and therefore not a fixed struct."""

from __future__ import annotations

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
