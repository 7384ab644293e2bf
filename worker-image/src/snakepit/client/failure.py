"""From the status of a call to the exception that the caller sees: the only place that knows both sides."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, Final

import grpc

from snakepit import values
from snakepit.client import errors, wire
from snakepit.client.remote import rebuild

DOMAIN: Final = "snakepit.dev"
_DETAILS_KEY: Final = "grpc-status-details-bin"
_PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
# How gRPC's core begins its messages when a call failed before anything was sent: no other sign of it exists.
_NEVER_SENT: Final = (
    "failed to connect to all addresses",
    "errors resolving",
    "DNS resolution failed",
    "empty address list",
)
_NEXT_STEP: Final = "check the address, and that the pool is Ready: kubectl get wpool"


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Which call failed."""

    address: str
    tool: str
    session: str
    request_id: str
    timeout: float


@dataclasses.dataclass(slots=True)
class _Report:
    """What the trailers say."""

    reason: str = ""
    info: dict[str, str] = dataclasses.field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    traceback: str = ""
    retry_after: float | None = None
    no_retry: bool = False


def metadata_of(rpc: Any) -> dict[str, str]:
    """Return the `snakepit-…` keys of the answer's headers and trailers; trailers win. Only for a call that ended."""
    found: dict[str, str] = {}
    for pairs in (rpc.initial_metadata(), rpc.trailing_metadata()):
        found.update((key, value) for key, value in pairs or () if key.startswith("snakepit-"))
    return found


def _read_details(report: _Report, data: bytes) -> None:
    status = wire.Status.FromString(data)
    for detail in status.details:
        kind = detail.type_url.rpartition("/")[2]
        if kind == "google.rpc.ErrorInfo":
            info = wire.ErrorInfo.FromString(detail.value)
            if info.domain == DOMAIN:
                report.reason = info.reason
                report.info = {entry.key: entry.value for entry in info.metadata}
        elif kind == "google.rpc.BadRequest":
            bad = wire.BadRequest.FromString(detail.value)
            report.violations = tuple((item.field, item.description) for item in bad.field_violations)
        elif kind == "google.rpc.RetryInfo":
            delay = wire.RetryInfo.FromString(detail.value).retry_delay
            report.retry_after = delay.seconds + delay.nanos / 1e9
        elif kind == "google.rpc.DebugInfo":
            debug = wire.DebugInfo.FromString(detail.value)
            report.traceback = "\n".join(debug.stack_entries) or debug.detail


def _read_trailers(rpc: Any) -> _Report:
    report = _Report()
    pushback: str | None = None
    for key, value in rpc.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            # A detail that does not parse must not hide the error that it describes.
            with contextlib.suppress(Exception):
                _read_details(report, value)
        elif key == _PUSHBACK_KEY:
            pushback = value
    if pushback is not None:  # this key is what gRPC libraries obey, so it wins over RetryInfo
        report.no_retry = not pushback.isdecimal()
        report.retry_after = None if report.no_retry else int(pushback) / 1000
    return report


def _remote_error(text: str, report: _Report, body: Any, attributes: dict[str, Any]) -> errors.SnakepitError:
    if body is None:
        name, module = report.info.get("type", ""), report.info.get("module", "")
        qualified = name if not module or module == "builtins" or "." in name else f"{module}.{name}"
        return rebuild(text, remote_type=qualified, traceback=report.traceback, **attributes)
    args: list[Any] = []
    with contextlib.suppress(Exception):  # an argument of a newer kind: the message says enough
        args = [values.decode(item) for item in body.args]
    return rebuild(
        body.message,
        remote_type=body.type,
        bases=body.bases,
        args=args,
        traceback=body.traceback or report.traceback,
        **attributes,
    )


def _without_reason(code: str, text: str, origin: Origin, attributes: dict[str, Any]) -> errors.SnakepitError:
    """Return the exception for a status that no Snakepit router wrote."""
    if code == "DEADLINE_EXCEEDED":
        return errors.DeadlineExceeded(f"no answer within {origin.timeout:g} s (timeout=)", **attributes)
    if code == "UNIMPLEMENTED":
        message = f"what answers at {origin.address} is not a Snakepit router: {text}"
        return errors.MethodUnknown(message, **attributes)
    if code == "RESOURCE_EXHAUSTED" and "message larger than max" in text:
        sent = text.lower().startswith("sent")
        attributes["execution"] = errors.NOT_STARTED if sent else errors.MAYBE_EXECUTED
        return errors.MessageTooLarge(text, **attributes)
    if code == "UNAVAILABLE" and text.startswith(_NEVER_SENT):
        attributes |= {"execution": errors.NOT_STARTED, "retryable": True}
        return errors.TransportError(f"cannot reach {origin.address} ({_NEXT_STEP}): {text}", **attributes)
    message = f"the call to {origin.address} broke off with {code}, it may have been executed: {text}"
    return errors.TransportError(message, **attributes)


def translate(rpc: Any, origin: Origin, body: Any = None) -> errors.SnakepitError:
    """Return the exception for a call that ended with a status other than OK; body is the RemoteError beside it."""
    status: grpc.StatusCode = rpc.code()
    code, text = status.name, rpc.details() or ""
    report = _read_trailers(rpc)
    headers = metadata_of(rpc)
    attributes: dict[str, Any] = {
        "code": code,
        "worker": report.info.get("worker") or headers.get("snakepit-worker", ""),
        "session": origin.session,
        "tool": origin.tool,
        "request_id": headers.get("snakepit-request-id", origin.request_id),
        "details": report.info,
        "retry_after": report.retry_after,
        "no_retry": report.no_retry,
    }
    if report.reason in {"", "ADAPTER_EXCEPTION"} and (body is not None or report.reason):
        attributes["execution"] = report.info.get("execution")
        return _remote_error(text, report, body, attributes)
    if not report.reason:
        return _without_reason(code, text, origin, attributes)
    attributes["reason"] = report.reason
    attributes["execution"] = report.info.get("execution")
    if report.reason == "WORKER_DIED" and code == "UNAVAILABLE" and not attributes["execution"]:
        attributes["execution"] = errors.NOT_STARTED
    error = errors.BY_REASON.get(report.reason, errors.SnakepitError)(text, **attributes)
    if isinstance(error, errors.InvalidArguments):
        error.violations = report.violations
    return error
