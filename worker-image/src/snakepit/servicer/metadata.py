"""Metadata and status codes as grpcio's servers take them from handlers and hand them out."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import grpc

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13

# What grpcio's core answers a server that sends metadata which HTTP/2 cannot carry.
INVALID_METADATA: Final = "Invalid metadata"

_KEY: Final = re.compile(rb"[0-9a-z_.\-]+")
_VALUE: Final = re.compile(rb"[\x20-\x7e]*")
# Keys that the transport writes itself; grpcio drops them without a word.
_TRANSPORT: Final = frozenset(("te", "content-type"))
# A Finish frame carries at most 64 KiB of headers, trailers and status; HTTP/2 peers accept 8 to 16 KiB by default.
_MAX_BYTES: Final = 20 << 10
# What an entry costs besides its bytes, as HTTP/2 counts it.
_ENTRY_BYTES: Final = 32

_NUMBERS: Final[dict[Any, int]] = {code: number for number, code in enumerate(grpc.StatusCode)}

Entry = tuple[str, str | bytes]


class Metadatum(NamedTuple):
    """One entry of a caller's metadata, with the attributes that grpcio's entries have."""

    key: str
    value: str | bytes


class InvalidMetadataError(ValueError):
    """HTTP/2 cannot carry the metadata that a handler gave."""


def incoming(metadata: Any) -> tuple[Metadatum, ...]:
    """Return a caller's metadata as `invocation_metadata()` shows it."""
    return tuple(map(Metadatum._make, metadata))


def outgoing(metadata: Any) -> tuple[Entry, ...]:
    """Return metadata of a handler as it goes on the wire.

    Raises what grpcio's conversion raises for wrong types, and InvalidMetadataError for wrong keys, wrong values, or
    too much of it.
    """
    if not metadata:
        return ()
    entries: list[Entry] = []
    size = 0
    for key, value in metadata:
        name = _encoded(key)
        binary = name.endswith(b"-bin")
        if binary and not isinstance(value, bytes):
            raise TypeError(f'Binary metadata key="{key}" expected bytes, got {type(value)}')
        raw = value if binary else _encoded(value)
        if not _KEY.fullmatch(name) or not (binary or _VALUE.fullmatch(raw)):
            raise InvalidMetadataError(INVALID_METADATA)
        size += len(name) + len(raw) + _ENTRY_BYTES
        text = name.decode()
        if text not in _TRANSPORT:
            entries.append((text, raw if binary else raw.decode()))
    if size > _MAX_BYTES:
        raise InvalidMetadataError(f"metadata of {size} bytes, at most {_MAX_BYTES} are possible")
    return tuple(entries)


def _encoded(text: Any) -> bytes:
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode()
    raise TypeError(f"Expected str, not {type(text)}")


def check_trailing(metadata: Any) -> None:
    """Raise TypeError where grpc.aio's `set_trailing_metadata` does."""
    entries = metadata if hasattr(metadata, "__iter__") and not isinstance(metadata, dict) else (None,)
    for entry in entries:
        fits = isinstance(entry, tuple) and len(entry) == 2
        if not fits or not isinstance(entry[0], str) or not isinstance(entry[1], (str, bytes)):
            expected = "Tuple[Tuple[str, Union[str, bytes]]...]"
            raise TypeError(f"Invalid trailing metadata type, expected {expected}: {metadata}")


def sync_code(code: Any) -> int:
    """Return the number of a grpc.StatusCode; all else is UNKNOWN, as with grpc.server."""
    return _NUMBERS.get(code, UNKNOWN)


def coroutine_code(code: Any) -> int:
    """Return the number of a grpc.StatusCode or of an integer from 0 to 15; all else is UNKNOWN, as with grpc.aio."""
    if isinstance(code, int):
        return code if OK <= code <= 15 else UNKNOWN
    return sync_code(code)


def text_of(details: Any) -> str:
    """Return a status message; bytes that are no UTF-8 are replaced, as callers of grpcio see them."""
    if not details:
        return ""
    text = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details)
    return text.encode("utf-8", "replace")[:_MAX_BYTES].decode("utf-8", "ignore")
