"""What google.protobuf knows about services: their files for reflection, their methods, and which are idempotent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import descriptor_pool

from snakepit import logs

# A Hello carries 320 KiB, tools and methods included.
_MAX_BYTES: Final = 192 << 10
# google.protobuf.MethodOptions.IdempotencyLevel: NO_SIDE_EFFECTS and IDEMPOTENT.
_REPEATABLE: Final = (1, 2)


def service(name: str) -> Any | None:
    """Return the ServiceDescriptor of "package.Service" if its generated module was imported, or None."""
    try:
        return descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        return None


def method_names(name: str) -> list[str]:
    """Return the names of a service's methods, as far as its descriptor is known."""
    found = service(name)
    return [] if found is None else [method.name for method in found.methods]


def idempotent(name: str, method: str) -> bool:
    """Whether the .proto says that a call may be repeated: `option idempotency_level`."""
    found = service(name)
    known = None if found is None else found.methods_by_name.get(method)
    return known is not None and known.GetOptions().idempotency_level in _REPEATABLE


def files(services: Iterable[str]) -> list[bytes]:
    """Return the serialized FileDescriptorProtos of services, what they import first; none if they are too large."""
    found: dict[str, bytes] = {}
    for name in services:
        known = service(name)
        if known is not None:
            _add(known.file, found)
    size = sum(map(len, found.values()))
    if size > _MAX_BYTES:
        logs.write("servicer", "reflection will not show the services: their descriptors are too large", bytes=size)
        return []
    return list(found.values())


def _add(file: Any, found: dict[str, bytes]) -> None:
    if file.name in found:
        return
    for imported in file.dependencies:
        _add(imported, found)
    found[file.name] = file.serialized_pb
