"""How many threads numeric libraries are told to use."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from snakepit.zygote import threads


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for threadpoolctl, which remembers what it is told."""
    limits: list[int] = []

    def threadpool_limits(**given: int) -> None:
        limits.append(given["limits"])

    module = SimpleNamespace(threadpool_limits=threadpool_limits)
    monkeypatch.setitem(sys.modules, "threadpoolctl", module)
    for name in threads.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return limits


def test_preloaded_libraries_are_raised_to_the_share(told: list[int]) -> None:
    threads.Share().give(3)
    threads.raise_preloaded(3)
    assert told == [3]


def test_one_thread_needs_no_telling(told: list[int]) -> None:
    threads.Share().give(1)
    threads.raise_preloaded(1)
    assert told == []


@pytest.mark.parametrize(("text", "expected"), [("5", [5]), ("4,3,2", [2]), ("", [2]), ("-1", [2]), ("²", [2])])
def test_what_the_user_chose_counts(
    told: list[int], monkeypatch: pytest.MonkeyPatch, text: str, expected: list[int]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    threads.Share().give(2)
    threads.raise_preloaded(2)
    assert told == expected


def test_the_zygote_has_one_thread_and_gives_back_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "6")
    changed = threads.zygote_environment()
    assert {changed[name] for name in threads.THREAD_VARIABLES} == {"1"}
    for name in [*threads.THREAD_VARIABLES, "SNAKEPIT_ORIGINAL_MKL_NUM_THREADS"]:
        monkeypatch.setenv(name, changed.get(name, ""))
    threads.restore_environment()
    assert {name: os.environ.get(name) for name in threads.THREAD_VARIABLES} == {
        name: "6" if name == "MKL_NUM_THREADS" else None for name in threads.THREAD_VARIABLES
    }
