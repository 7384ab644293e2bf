"""Finds the adapter that `module:Class` or `module:object` names."""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

_SPEC: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?\Z")


def check_name(spec: str) -> str | None:
    """Return what is wrong with the name of an adapter, or None. Imports nothing."""
    if _SPEC.match(spec):
        return None
    return f"adapter {spec!r:.200} is not module:Class or module:object, such as myapp.adapter:Adapter"


def load(spec: str) -> Any:
    """Import the module and return what the name stands for: a class, an object, or the module itself."""
    problem = check_name(spec)
    if problem:
        raise ValueError(problem)
    module_name, _, path = spec.partition(":")
    target: Any = importlib.import_module(module_name)
    for name in path.split(".") if path else ():
        try:
            target = getattr(target, name)
        except AttributeError:
            known = ", ".join(sorted(n for n in vars(target) if not n.startswith("_"))[:10]) or "nothing"
            raise AttributeError(f"adapter {spec}: {module_name} has no {path}; it has {known}") from None
    return target


def preload(target: Any) -> None:
    """Run the adapter's preload, if it has one."""
    hook = getattr(target, "preload", None)
    if callable(hook):
        hook()
