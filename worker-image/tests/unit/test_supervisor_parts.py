"""Parts of the supervisor that need no process: options, the words of workers, output."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_view import eventually
from snakepit.supervisor import options
from snakepit.supervisor.output import Output
from snakepit.worker import load, report


def test_options() -> None:
    parsed = options.parse(
        ["app:App", "--", "-x", "--", "y"], {"SNAKEPIT_DRAIN_TIMEOUT": "2.5", "SNAKEPIT_BRIDGE": "/b"}
    )
    assert (parsed.adapter, parsed.arguments, parsed.drain_seconds, parsed.bridge) == (
        "app:App",
        ["-x", "--", "y"],
        2.5,
        "/b",
    )
    plain = options.parse(["a.b:C.d"], {})
    assert (plain.bridge, plain.pod_uid, plain.arguments) == (options.DEFAULT_BRIDGE, "local", [])


@pytest.mark.parametrize("arguments", [[], ["--"], ["-h"], ["app:"], ["app:1x"], ["/path.py:App"], ["a b:C"]])
def test_bad_adapters(arguments: list[str]) -> None:
    with pytest.raises(options.OptionsError, match="usage"):
        options.parse(arguments, {})


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf"])
def test_bad_drain_timeouts(text: str) -> None:
    for name in ("SNAKEPIT_DRAIN_TIMEOUT", "SNAKEPIT_ORPHAN_TIMEOUT"):
        with pytest.raises(options.OptionsError, match=name):
            options.parse(["a:B"], {name: text})


def test_workers_in_a_pod_outlive_the_router_without_limit() -> None:
    assert options.parse(["a:B"], {}).orphan_seconds is None
    assert options.parse(["a:B"], {"SNAKEPIT_ORPHAN_TIMEOUT": "10"}).orphan_seconds == 10
    assert options.parse(["a:B"], {"SNAKEPIT_DRAIN_TIMEOUT": "0"}).drain_seconds == 0


words = (
    st.builds(report.Changed, st.text(min_size=1, max_size=32), st.integers(0, 2**64 - 1), st.booleans())
    | st.builds(report.Failed, st.sampled_from(["import", "setup"]), st.text(), st.text(), st.text())
    | st.sampled_from([report.Ready(), report.Loaded()])
)


@given(words)
def test_words_round_trip(word: report.Word) -> None:
    if isinstance(word, report.Changed):
        try:
            word.name.encode()
        except UnicodeEncodeError:
            return
    assert report.decode(report.encode(word)) == word


@given(st.binary(max_size=200) | st.builds(lambda kind, rest: kind + rest, st.sampled_from([b"F", b"O"]), st.binary()))
def test_other_packets_are_no_words(packet: bytes) -> None:
    try:
        word = report.decode(packet)
    except ValueError:
        return
    assert report.encode(word) == packet or isinstance(word, report.Failed)


def test_loading_names_what_is_there() -> None:
    assert load.load("snakepit.examples.counter:Counter").__name__ == "Counter"
    with pytest.raises(AttributeError, match=r"has no Nope; it has .*Counter"):
        load.load("snakepit.examples.counter:Nope")


def test_output_keeps_lines_whole_and_the_last_one() -> None:
    read, write = os.pipe()
    output = Output(write)
    first, one = output.open()
    second, two = output.open()
    os.write(one, b"half ")
    os.write(two, b"other\n")
    collected = b""
    os.set_blocking(read, False)

    def drained() -> bytes:
        nonlocal collected
        try:
            collected += os.read(read, 65536)
        except BlockingIOError:
            pass
        return collected

    eventually(lambda: b"other\n" in drained(), "the other's line")
    os.write(one, b"line\nlast \xff\x1b[31m words")
    os.close(one)
    assert output.finish(first) == ["half line", "last \ufffd[31m words"]
    assert output.finish(second) == ["other"]
    eventually(lambda: drained().endswith(b"half line\nlast \xff\x1b[31m words\n"), "whole lines")
    assert collected.startswith(b"other\n")
    os.close(two)


def test_output_cuts_what_never_ends() -> None:
    read, write = os.pipe()
    output = Output(write)
    source, end = output.open()
    total = 0

    def pump() -> bool:
        nonlocal total
        total += len(os.read(read, 1 << 20))
        return total > 150_000

    from threading import Thread

    writer = Thread(target=os.write, args=(end, b"x" * 200_000))
    writer.start()
    eventually(pump, "a line without end is passed on in parts")
    writer.join(5)
    os.close(end)
    assert [len(line) for line in output.finish(source)] == [256, 256]
    os.close(read)
