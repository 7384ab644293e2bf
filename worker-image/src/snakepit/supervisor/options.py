"""What the supervisor is told: its arguments and environment, and the router's wishes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from snakepit.bridge.protocol import MAX_SLOTS
from snakepit.bridge.supervision import FIRST_PAUSE, LONGEST_PAUSE, Wish
from snakepit.worker.load import check_name

DEFAULT_BRIDGE: Final = "/run/snakepit/bridge/bridge.sock"
DEFAULT_DRAIN_SECONDS: Final = 30.0
USAGE: Final = "usage: python3 -m snakepit.supervisor MODULE:CLASS [--] [ARGUMENT …]"


class OptionsError(ValueError):
    """What was told makes no sense."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The supervisor's options."""

    adapter: str
    arguments: list[str]
    bridge: str
    pod_uid: str
    pod_name: str
    drain_seconds: float
    # Seconds without a router after which the workers end; None in a pod, where they outlive it without limit.
    orphan_seconds: float | None = None


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Return the options, or raise OptionsError with what to do."""
    if not arguments or arguments[0].startswith("-"):
        raise OptionsError(f"the adapter is missing; {USAGE}")
    adapter, *rest = arguments
    problem = check_name(adapter)
    if problem:
        raise OptionsError(f"{problem}; {USAGE}")
    if rest[:1] == ["--"]:
        rest = rest[1:]
    drain_seconds = _number(environment, "SNAKEPIT_DRAIN_TIMEOUT")
    return Options(
        adapter=adapter,
        arguments=list(rest),
        bridge=environment.get("SNAKEPIT_BRIDGE", "") or DEFAULT_BRIDGE,
        pod_uid=environment.get("SNAKEPIT_POD_UID", "") or "local",
        pod_name=environment.get("SNAKEPIT_POD_NAME", "") or "local",
        drain_seconds=DEFAULT_DRAIN_SECONDS if drain_seconds is None else drain_seconds,
        orphan_seconds=_number(environment, "SNAKEPIT_ORPHAN_TIMEOUT"),
    )


def _number(environment: Mapping[str, str], name: str) -> float | None:
    """Return a variable's number of seconds; None when it is not set."""
    text = environment.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise OptionsError(f"{name}={text!r} is not a number of seconds, such as 30")
    return value


def seconds(milliseconds: int, default: float) -> float:
    """Return an order's time in seconds, at most a day; 0 stands for the default."""
    return min(milliseconds / 1000, 86_400.0) or default


def wish(desired: Any) -> Wish:
    """Return the rules' form of a Desired."""
    return Wish(
        slots=frozenset(slot for slot in desired.slots if slot < MAX_SLOTS),
        startup=seconds(desired.startup_timeout_ms, 60.0),
        grace=seconds(desired.stop_grace_ms, 0.0),
        batch=min(desired.batch_size, MAX_SLOTS),
        batch_interval=seconds(desired.batch_interval_ms, 0.0),
        backoff=seconds(desired.backoff_ms, FIRST_PAUSE),
        longest_backoff=seconds(desired.max_backoff_ms, LONGEST_PAUSE),
    )
