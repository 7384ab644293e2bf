"""What a caller may say about calls: address, deadline, request id, tenant and metadata, each checked before use."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from snakepit.client.errors import InvalidArguments

ADDRESS_VARIABLE: Final = "SNAKEPIT_ROUTER"
DEFAULT_PORT: Final = 50051
DEFAULT_TIMEOUT: Final = 300.0  # seconds; the pool's own calls.timeout has the same default

Affinity = Literal["hint", "strict-queue", "strict-fail-fast"]
Metadata = tuple[tuple[str, str | bytes], ...]

_AFFINITIES: Final = ("hint", "strict-queue", "strict-fail-fast")
_NAME: Final = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")
_METADATA_KEY: Final = re.compile(r"[a-z0-9._-]+")
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]*")
_POOL_NAME: Final = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_REQUEST_ID: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,128}")  # no comma: gRPC joins duplicates with it


def invalid(field: str, expected: str) -> InvalidArguments:
    """Return the error for one bad option."""
    error = InvalidArguments("an option of the client is not valid")
    error.violations = ((field, expected),)
    return error


def resolve_address(address: object = None) -> str:
    """Return the gRPC target: the argument, else SNAKEPIT_ROUTER; a bare name is a pool, `demo` or `demo.namespace`."""
    text = os.environ.get(ADDRESS_VARIABLE, "") if address is None else address
    if not isinstance(text, str) or not text.strip():
        raise invalid(
            "address",
            f"no address: give one, Client('demo') for the pool demo in this namespace or Client('host:port'), "
            f"or set {ADDRESS_VARIABLE}",
        )
    text = text.strip()
    if "://" in text and text.partition("://")[0] in {"http", "https", "grpc", "tcp"}:
        raise invalid("address", f"leave out the scheme: {text.partition('://')[2]!r} instead of {text!r}")
    if ":" in text or "/" in text:
        return text
    if not _POOL_NAME.fullmatch(text):
        raise invalid("address", f"{text!r} is neither a pool's name nor host:port")
    return f"{text}:{DEFAULT_PORT}"


def check_timeout(timeout: object) -> float:
    """Return the seconds; every call has a deadline."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise invalid("timeout", f"a number of seconds above 0, not {timeout!r}")
    if not math.isfinite(timeout) or timeout <= 0:
        raise invalid("timeout", f"a number of seconds above 0, not {timeout!r}: every call has a deadline")
    return float(timeout)


def check_session_name(name: object) -> str:
    """Return the name if a router takes it."""
    return _check_name("session", name)


def _check_name(field: str, name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(field, f"1 to 128 of A-Z a-z 0-9 . _ : @ / -, not {name!r}")
    return name


def check_affinity(affinity: object) -> str:
    """Return the affinity, empty for the pool's own."""
    if affinity is None:
        return ""
    if not isinstance(affinity, str) or affinity not in _AFFINITIES:
        raise invalid("affinity", f"one of {', '.join(_AFFINITIES)}, not {affinity!r}")
    return affinity


def _check_request_id(text: object) -> str:
    if not isinstance(text, str) or not _REQUEST_ID.fullmatch(text):
        raise invalid("request_id", f"1 to 128 printable ASCII characters without space and comma, not {text!r}")
    return text


def _check_metadata(metadata: Mapping[Any, Any]) -> Metadata:
    for key, value in metadata.items():
        field = f"metadata[{key!r}]"
        if not isinstance(key, str) or not _METADATA_KEY.fullmatch(key):
            raise invalid(field, "keys are of a-z 0-9 . _ -")
        if key.startswith(("snakepit-", "grpc-")):
            raise invalid(field, "this prefix is reserved; with_options() and session() set what callers may set")
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                raise invalid(field, "the value of a key that ends in -bin is bytes")
        elif not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
            raise invalid(field, "the value is printable ASCII (bytes go under a key that ends in -bin)")
    return tuple(metadata.items())


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How calls are made; values are checked by `changed`."""

    timeout: float = DEFAULT_TIMEOUT
    request_id: str = ""
    idempotent: bool = False
    tenant: str = ""
    metadata: Metadata = ()
    # The metadata of all of the above but the request id, ready to send.
    prepared: Metadata = ()

    def changed(
        self,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        idempotent: bool | None = None,
        tenant: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
    ) -> Options:
        """Return these options with those that are not None in place."""
        if idempotent is not None and not isinstance(idempotent, bool):
            raise invalid("idempotent", f"True or False, not {idempotent!r}")
        changed = Options(
            self.timeout if timeout is None else check_timeout(timeout),
            self.request_id if request_id is None else _check_request_id(request_id),
            self.idempotent if idempotent is None else idempotent,
            self.tenant if tenant is None else _check_name("tenant", tenant),
            self.metadata if metadata is None else _check_metadata(metadata),
        )
        prepared: list[tuple[str, str | bytes]] = list(changed.metadata)
        if changed.idempotent:
            prepared.append(("snakepit-idempotent", "true"))
        if changed.tenant:
            prepared.append(("snakepit-tenant", changed.tenant))
        return dataclasses.replace(changed, prepared=tuple(prepared))
