"""How exceptions are described: whatever an adapter raises, its caller is told, and the worker lives on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit.errors import AdapterError
from snakepit.worker import failure
from snakepit.worker.process import failed
from snakepit.worker.report import Failed

# Lone surrogates included: Python's names of files that are no UTF-8 have them.
texts = st.text(alphabet=st.characters(exclude_categories=()), max_size=300)


class Silent(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Hollow(Exception):
    """Its arguments cannot be read."""

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@given(texts, st.integers(4, 400))
def test_cut_fits_and_is_text(text: str, limit: int) -> None:
    short = failure.cut(text, limit)
    assert len(short.encode()) <= limit
    plain = text.encode("utf-8", "replace").decode()
    assert short == plain or (short.endswith("…") and plain.startswith(short[:-1]))


@given(texts, st.sampled_from([ValueError, KeyError, AdapterError, OSError]))
def test_any_text_of_an_exception_can_be_sent(text: str, kind: type[Exception]) -> None:
    told = failure.of_exception(raised(kind(text, {text: text})))
    assert told.info.SerializeToString() and told.remote.SerializeToString()
    assert told.info.reason == "ADAPTER_EXCEPTION" and told.remote.type.endswith(kind.__name__)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Silent(), "Silent: <its __str__ raised RuntimeError>"),
        (Hollow("x"), "an exception that cannot be described: RuntimeError"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\udc80"), "can't decode byte 0xff in position 0: ?"),
        (FileNotFoundError(2, "No such file", "caf\udce9.txt"), "'caf\\udce9.txt'"),
    ],
    ids=["str raises", "args raise", "reason", "file"],
)
def test_exceptions_that_resist(error: Exception, says: str) -> None:
    told = failure.of_exception(raised(error))
    assert says in told.info.message and told.info.SerializeToString()


@given(texts)
def test_a_failed_setup_can_be_told(text: str) -> None:
    word: Failed = failed("setup", raised(ValueError(text)))
    assert (word.type, len(word.message.encode()) <= 256) == ("ValueError", True)
