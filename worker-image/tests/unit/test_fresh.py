"""What the zygote does once so that its workers share more memory."""

from __future__ import annotations

import random
import sys

import pytest

from snakepit import tool
from snakepit.worker import tools
from snakepit.zygote import fresh

POOL_BYTES = 16 << 10


def pools(blocks: list[bytes]) -> set[int]:
    return {id(block) // POOL_BYTES for block in blocks}


@pytest.mark.parametrize("size", [48, 240, 512])
def test_new_objects_do_not_go_between_old_ones(size: int) -> None:
    content = size - sys.getsizeof(b"")
    old = [bytes(content) for _ in range(60_000 // size * 16)]
    random.Random(1).shuffle(old)
    holes = len(old) // 2
    del old[:holes]
    fillers = fresh._free_blocks(size)
    assert len(fillers) >= holes * 9 // 10, "pools that became empty are not filled"
    new = [bytes(content) for _ in range(200)]
    among = pools(old)
    between = sum(id(block) // POOL_BYTES in among for block in new)
    assert between < 20, "some come free at any time, but not many"


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    before = len(fresh._fillers)
    fresh.fill_pools()
    assert len(fresh._fillers) == before


def test_room_without_end_is_not_filled_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "_POOL_BYTES", 1 << 40)
    assert sum(map(len, fresh._free_blocks(512))) < 1 << 20


def test_what_is_decorated_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_remembered", [])

    class App:
        @tool
        def first(self) -> None: ...

    class Other:
        @tool
        def other(self) -> None: ...

    tools.check_declarations(App)
    # As a preload may do.
    App.second = tool(name="second")(lambda self: None)  # type: ignore[attr-defined]
    tools.remember(App)
    monkeypatch.setattr(tools, "tool_options", None)
    assert [found.name for found in tools.instantiate(App, []).tools] == ["first", "second"]
    monkeypatch.undo()
    assert [found.name for found in tools.instantiate(Other, []).tools] == ["other"]
