"""The codec against the byte vectors that both implementations share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit import messages
from snakepit.bridge import protocol

VECTORS = Path(__file__).resolve().parents[3] / "api" / "bridge" / "v1alpha1" / "testdata" / "frames.json"
ALL: list[dict[str, Any]] = json.loads(VECTORS.read_text())


def vector_bytes(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["hex"]) + bytes(vector.get("pad", 0))


def expected(vector: dict[str, Any]) -> protocol.Frame:
    frame = vector["frame"]
    fixed = tuple(frame["fixed"][name] for name in protocol.FIELDS.get(frame["kind"], ()))
    payload = bytes.fromhex(frame["payload_hex"]) + bytes(vector.get("pad", 0))
    return protocol.Frame(frame["kind"], frame["flags"], frame["id"], fixed, bytes.fromhex(frame["ext_hex"]), payload)


@pytest.mark.parametrize("vector", [v for v in ALL if "frame" in v], ids=lambda v: v["name"])
def test_decodes_and_encodes(vector: dict[str, Any]) -> None:
    decoder = protocol.Decoder()
    decoder.feed(vector_bytes(vector))
    frame = decoder.next_frame()
    assert frame == expected(vector)
    assert decoder.next_frame() is None and decoder.pending() == 0
    encoded = expected(vector).encode()
    assert (encoded == vector_bytes(vector)) == vector.get("canonical", True)


@pytest.mark.parametrize("vector", [v for v in ALL if "error" in v], ids=lambda v: v["name"])
def test_refuses(vector: dict[str, Any]) -> None:
    decoder = protocol.Decoder()
    if vector["error"] == "incomplete":
        decoder.feed(vector_bytes(vector))
        assert decoder.next_frame() is None
        return
    with pytest.raises(protocol.ProtocolError) as caught:
        decoder.feed(vector_bytes(vector))
        decoder.next_frame()
    assert caught.value.code == vector["error"]


def read(decoder: protocol.Decoder, plainly: bool) -> list[Any]:
    """Return all frames that have come, and the code of the error after them; `plainly`: Calls by `next_call`."""
    got: list[Any] = []
    try:
        while True:
            plain = decoder.next_call() if plainly else None
            if plain is not None:
                flags, id, tool, epoch, timeout_us, ext, payload = plain
                got.append(protocol.Frame(protocol.Kind.CALL, flags, id, (tool, epoch, timeout_us), ext, payload))
                continue
            frame = decoder.next_frame()
            if frame is None:
                return got
            got.append(frame)
    except protocol.ProtocolError as error:
        return [*got, error.code]


def read_parts(parts: list[bytes], plainly: bool) -> list[Any]:
    """Return what one decoder makes of bytes that come in parts; after an error nothing more is fed."""
    decoder = protocol.Decoder()
    got: list[Any] = []
    for part in parts:
        try:
            decoder.feed(part)
        except protocol.ProtocolError as error:
            return [*got, error.code]
        got += read(decoder, plainly)
        if got and not isinstance(got[-1], protocol.Frame):
            return got
    return got


@pytest.mark.parametrize("plainly", [False, True], ids=["frames", "calls"])
@pytest.mark.parametrize("vector", ALL, ids=lambda v: v["name"])
def test_a_split_at_any_byte_changes_nothing(vector: dict[str, Any], plainly: bool) -> None:
    data = vector_bytes(vector)
    whole = read_parts([data], plainly)
    assert bool(whole) == (vector.get("error") != "incomplete")
    # The padding of the large ones is all alike.
    for at in range(1, len(data)):
        if at < 80 or at > len(data) - 4 or at % 65_536 in (0, 1, 65_535):
            assert read_parts([data[:at], data[at:]], plainly) == whole, f"split at {at}"
    start, rest = data[:80], data[80:]
    assert read_parts([bytes((byte,)) for byte in start] + [rest] * bool(rest), plainly) == whole, "byte by byte"


def test_every_kind_has_a_vector() -> None:
    kinds = {v["frame"]["kind"] for v in ALL if "frame" in v}
    assert set(protocol.Kind) <= kinds
    assert len({v["name"] for v in ALL}) == len(ALL)


def frames() -> st.SearchStrategy[protocol.Frame]:
    def build(kind: protocol.Kind, flags: int, id: int, seed: int, ext: bytes, payload: bytes) -> protocol.Frame:
        size = protocol.FIXED[kind].size
        raw = bytearray((seed >> (8 * (i % 8))) & 0xFF for i in range(size))
        fixed = protocol.FIXED[kind].unpack(raw)
        return protocol.Frame(kind, flags, id, fixed, ext, payload)

    u32 = st.integers(0, 2**32 - 1)
    sizes = st.sampled_from([0, 1, 100, 65_000])
    return st.builds(
        build,
        st.sampled_from(list(protocol.Kind)),
        st.integers(0, 255),
        u32,
        st.integers(0, 2**64 - 1),
        sizes.map(bytes),
        st.sampled_from([0, 1, 4096, 70_000, 262_000]).map(bytes),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(frames(), max_size=4),
    st.lists(st.integers(1, 20), min_size=1, max_size=50),
    st.integers(5_000, 300_000),
    st.booleans(),
)
def test_any_chunks_give_the_same_frames(
    sent: list[protocol.Frame], small: list[int], large: int, plainly: bool
) -> None:
    stream = b"".join(frame.encode() for frame in sent)
    decoder = protocol.Decoder()
    got: list[protocol.Frame] = []
    steps = iter(small)
    at = 0
    while at < len(stream):
        step = next(steps, large)
        decoder.feed(stream[at : at + step])
        got += read(decoder, plainly)
        at += step
    assert got == sent
    assert decoder.pending() == 0


@given(st.binary(max_size=64))
def test_garbage_is_an_error_or_a_wait_never_another_exception(data: bytes) -> None:
    decoder = protocol.Decoder()
    try:
        decoder.feed(data)
        for _ in decoder.frames():
            pass
    except protocol.ProtocolError as error:
        assert error.code


@pytest.mark.parametrize(
    ("kind", "payload", "ext"),
    [
        (protocol.Kind.MESSAGE, protocol.MAX_PAYLOAD + 1, 0),
        (protocol.Kind.CALL, 0, protocol.MAX_EXT + 1),
        (protocol.Kind.HELLO, protocol.MAX_LENGTH - 7, 0),
    ],
)
def test_encode_refuses_what_a_receiver_would(kind: protocol.Kind, payload: int, ext: int) -> None:
    fixed = (0,) * len(protocol.FIELDS[kind])
    with pytest.raises(ValueError, match="too long"):
        protocol.Frame(kind, 0, 1, fixed, bytes(ext), bytes(payload)).encode()


@pytest.mark.parametrize(
    ("numbers", "name", "prefix"),
    [
        (protocol.Role, "Role", "ROLE_"),
        (protocol.GoodbyeReason, "GoodbyeReason", "GOODBYE_REASON_"),
        (protocol.StartMethod, "StartMethod", "START_METHOD_"),
        (protocol.AdapterPhase, "AdapterPhase", "ADAPTER_PHASE_"),
        (protocol.ToolKind, "ToolKind", "TOOL_KIND_"),
    ],
)
def test_enums_are_those_of_the_proto(numbers: Any, name: str, prefix: str) -> None:
    proto = messages.enum_numbers("snakepit.bridge.v1alpha1." + name)
    ours = {prefix + member.name: int(member) for member in numbers}
    assert ours == {key: value for key, value in proto.items() if not key.endswith("_UNSPECIFIED")}
