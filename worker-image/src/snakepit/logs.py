"""Log lines of the supervisor, the zygote and the workers: one line each, never with argument values.

Text by default, JSON with SNAKEPIT_LOG_FORMAT=json. Written in one write to standard error, so that lines of
several processes do not mix.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from typing import Final

_JSON: Final = os.environ.get("SNAKEPIT_LOG_FORMAT", "") == "json"


def write(component: str, event: str, **fields: object) -> None:
    """Write one line; fields that are None or empty are left out."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    kept = {key: value for key, value in fields.items() if value not in (None, "")}
    if _JSON:
        line = json.dumps({"ts": now, "logger": component, "msg": event} | kept, default=str)
    else:
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in kept.items())
        line = f"{now} {component}: {event}{pairs}"
    try:
        sys.stderr.flush()
        os.write(2, (line + "\n").encode("utf-8", "backslashreplace"))
    except (OSError, ValueError):
        # A log that cannot be written must not end the process that works.
        pass


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c.isspace() or c == '"' for c in text) else text
