"""Writes api/bridge/v1alpha1/testdata/frames.json, from literal bytes and not from the codec under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[3] / "api" / "bridge" / "v1alpha1" / "testdata" / "frames.json"


def u(value: int, size: int) -> str:
    """Return a little-endian number in hexadecimal."""
    return value.to_bytes(size, "little").hex()


def raw(length: int, kind: int, flags: int = 0, ext: int = 0, id: int = 0, body: str = "") -> str:
    """Return a frame's bytes with every header field as given."""
    return u(length, 4) + u(kind, 1) + u(flags, 1) + u(ext, 2) + u(id, 4) + body


def good(
    name: str,
    kind: int,
    fixed: dict[str, int] | None = None,
    fixed_hex: str = "",
    *,
    flags: int = 0,
    id: int = 0,
    ext: str = "",
    payload: str = "",
    pad: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Return the vector of a frame that decodes."""
    body = fixed_hex + ext + payload
    length = 8 + len(body) // 2 + pad
    frame = {"kind": kind, "flags": flags, "id": id, "fixed": fixed or {}, "ext_hex": ext, "payload_hex": payload}
    vector = {"name": name, "hex": raw(length, kind, flags, len(ext) // 2, id, body), "frame": frame}
    return vector | ({"pad": pad} if pad else {}) | more


def bad(name: str, error: str, hex: str, pad: int = 0) -> dict[str, Any]:
    """Return the vector of bytes that are refused."""
    return {"name": name, "hex": hex, "error": error} | ({"pad": pad} if pad else {})


BIG = 0xFEDCBA9876543210
EXT = b"\x0a\x03req".hex()  # CallInfo{request_id: "req"}
NAMED = b"\x0a\x07user-42".hex()  # SessionInfo{name: "user-42"}
RAISED = b"\x0a\x0aValueError".hex()  # SessionEnd{error_type: "ValueError"}
TEXT = b"payload".hex()
HEADERS = b"\x0a\x06\x0a\x01k\x12\x01v".hex()  # HeadersInfo{metadata: {key: "k", value: "v"}}


def call_hex(tool: int, epoch: int, timeout_us: int, reserved: str = "000000000000") -> str:
    """Return the fixed part of a Call."""
    return u(tool, 2) + reserved + u(epoch, 8) + u(timeout_us, 8)


def call_vectors() -> list[dict[str, Any]]:
    """Return the vectors of the frames of calls."""
    plain = {"tool": 3, "epoch": 0, "timeout_us": 0}
    full = {"tool": 65535, "epoch": BIG, "timeout_us": 300_000_000}
    zero = {"tool": 0, "epoch": 0, "timeout_us": 0}
    done = {"code": 0, "outcome": 0}
    return [
        good("call_without_message", 0x10, plain, call_hex(3, 0, 0), id=1),
        good("call_whole", 0x10, full, call_hex(65535, BIG, 300_000_000), flags=7, id=2, ext=EXT, payload=TEXT),
        good("call_ext_only", 0x10, plain, call_hex(3, 0, 0), id=0xFFFFFFFF, ext=EXT),
        good("call_empty_message", 0x10, plain, call_hex(3, 0, 0), flags=7, id=4),
        good("call_first_piece", 0x10, zero, call_hex(0, 0, 0), flags=1, id=5, payload="00ff"),
        good("call_largest_payload", 0x10, zero, call_hex(0, 0, 0), flags=1, id=6, pad=262_144),
        good(
            "call_reserved_ignored", 0x10, plain, call_hex(3, 0, 0, "ffffffffffff"), flags=0xF8, id=7, canonical=False
        ),
        good("accepted", 0x11, id=8),
        good("message_piece", 0x12, flags=1, id=9, payload=TEXT),
        good("message_end", 0x12, flags=3, id=9, payload=TEXT),
        good("message_end_stream_empty", 0x12, flags=7, id=9),
        good("message_largest", 0x12, flags=1, id=10, pad=262_144),
        good("finish_ok_without_message", 0x13, done, u(0, 2) + u(0, 2), id=11),
        good("finish_ok_with_message", 0x13, done, u(0, 4), flags=3, id=12, payload=TEXT),
        good(
            "finish_error_with_ext_and_message",
            0x13,
            {"code": 2, "outcome": 0},
            "02000000",
            flags=3,
            id=13,
            ext=b"\x0a\x04boom\x12\x11ADAPTER_EXCEPTION".hex(),
            payload="1200",
        ),
        good("finish_refused_session", 0x13, {"code": 9, "outcome": 1}, "09000100", id=14),
        good("cancel", 0x14, {"cause": 2}, "02000000", id=15),
        good("cancel_reserved_ignored", 0x14, {"cause": 1}, "0100adde", id=15, canonical=False),
        good("window", 0x15, {"bytes": 0xFFFFFFFF}, "ffffffff", id=16),
        good("headers", 0x16, id=17, ext=HEADERS),
        good("headers_empty", 0x16, id=18),
        bad("headers_truncated_ext", "truncated_ext", raw(8, 0x16, 0, 4, 18, "")),
        good("recall", 0x17, id=19),
        good("recalled", 0x18, id=0xFFFFFFFF),
    ]


def connection_vectors() -> list[dict[str, Any]]:
    """Return the vectors of the frames of connections, sessions and supervision."""
    return [
        good("hello", 0x01, payload="0801120101"),
        good("hello_empty", 0x01),
        good("hello_largest", 0x01, pad=327_680),
        good("welcome", 0x02, payload="0801"),
        good("goodbye", 0x03, payload="0802"),
        good("ping", 0x20, {"nonce": BIG}, u(BIG, 8)),
        good("pong", 0x21, {"nonce": 0}, u(0, 8)),
        good("session_open", 0x22, {"epoch": BIG}, u(BIG, 8), ext=NAMED),
        good("session_opened", 0x23, {"epoch": BIG, "status": 0}, u(BIG, 8) + "00000000"),
        good("session_opened_raised", 0x23, {"epoch": 7, "status": 1}, u(7, 8) + "01000000", ext=RAISED),
        good("session_close", 0x24, {"epoch": 7, "cause": 3}, u(7, 8) + "03000000"),
        good("session_closed", 0x25, {"epoch": 7, "status": 2}, u(7, 8) + "02000000"),
        good("session_closed_raised", 0x25, {"epoch": 7, "status": 1}, u(7, 8) + "01000000", ext=RAISED),
        good("control", 0x30, payload="0a020801"),
        good("unknown_kind_of_a_call", 0x7F, id=17, payload=TEXT),
        good("unknown_kind_without_call", 0xFF, payload="00"),
        # The body of an unknown kind is not divided: its ext field is not looked at.
        {
            "name": "unknown_kind_with_ext",
            "hex": raw(9, 0x7E, 0, 0xFFFF, 3, "aa"),
            "frame": {"kind": 0x7E, "flags": 0, "id": 3, "fixed": {}, "ext_hex": "", "payload_hex": "aa"},
            "canonical": False,
        },
    ]


def bad_vectors() -> list[dict[str, Any]]:
    """Return the vectors of bytes that are refused, and of bytes that are not a whole frame yet."""
    kinds = {0x10: 24, 0x13: 4, 0x14: 4, 0x15: 4, 0x20: 8, 0x21: 8, 0x22: 8, 0x23: 12, 0x24: 12, 0x25: 12}
    one_short = [
        bad(f"truncated_fixed_{kind:02x}", "truncated_fixed", raw(8 + size - 1, kind, id=1, body="00" * (size - 1)))
        for kind, size in kinds.items()
    ]
    return [
        bad("length_0", "too_short", u(0, 4)),
        bad("length_7", "too_short", u(7, 4) + "20000000000000"),
        bad("length_one_above_limit", "too_long", u(327_689, 4)),
        bad("length_one_above_limit_with_header", "too_long", raw(327_689, 0x12, 1, 0, 1)),
        bad("length_4_gib", "too_long", u(0xFFFFFFFF, 4)),
        *one_short,
        bad("truncated_ext_call", "truncated_ext", raw(8 + 24 + 3, 0x10, 0, 4, 1, call_hex(0, 0, 0) + "000000")),
        bad("truncated_ext_hello", "truncated_ext", raw(8, 0x01, 0, 1)),
        bad("truncated_ext_largest", "truncated_ext", raw(8 + 4, 0x13, 0, 0xFFFF, 1, "00000000")),
        bad(
            "call_payload_too_long",
            "payload_too_long",
            raw(8 + 24 + 262_145, 0x10, 1, 0, 1, call_hex(0, 0, 0)),
            262_145,
        ),
        bad("message_payload_too_long", "payload_too_long", raw(8 + 262_145, 0x12, 1, 0, 1), 262_145),
        bad("finish_payload_too_long", "payload_too_long", raw(8 + 4 + 262_145, 0x13, 1, 0, 1, "00000000"), 262_145),
        bad("nothing", "incomplete", ""),
        bad("three_bytes_of_length", "incomplete", "080000"),
        bad("header_without_last_byte", "incomplete", raw(8, 0x11, 0, 0, 1)[:-2]),
        bad("body_without_last_byte", "incomplete", raw(16, 0x20, 0, 0, 0, u(1, 8))[:-2]),
        bad("largest_length_only_header", "incomplete", raw(327_688, 0x01)),
    ]


def main() -> None:
    """Write the file: one vector a line."""
    vectors = connection_vectors() + call_vectors() + bad_vectors()
    lines = ",\n".join("  " + json.dumps(vector) for vector in vectors)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
