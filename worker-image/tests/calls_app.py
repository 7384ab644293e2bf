"""The adapter whose tools the tests of calls call."""

APP = '''
    import asyncio, dataclasses, os, time
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from snakepit import Context, Progress, tool
    from snakepit.errors import NotFound

    class Rejected(Exception):
        pass

    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no")

    def note(text):
        with open("notes", "a") as file:
            file.write(text + "\\n")

    class App:
        async def setup(self, ctx):
            note(f"setup {ctx.worker.name} {ctx.session}")

        def session_start(self, ctx):
            note(f"start {ctx.session.name}")
            if ctx.session.name == "bad":
                raise LookupError("no such user")
            ctx.session.state["seen"] = []

        async def session_end(self, ctx):
            note(f"end {ctx.session.name} {ctx.session.state.seen}")
            if ctx.session.name == "bad-end":
                raise ValueError("no end")

        def teardown(self):
            note("teardown")

        @tool
        def remember(self, ctx: Context, item: str) -> list[str]:
            ctx.session.state.seen.append(item)
            return ctx.session.state.seen

        @tool
        def about(self, ctx) -> dict[str, object]:
            left = ctx.time_remaining()
            return {"id": ctx.request_id, "metadata": dict(ctx.metadata), "session": ctx.session is None,
                    "left": left if left is None else left > 0, "slot": ctx.worker.slot, "cancelled": ctx.cancelled}

        @tool
        def wait(self, ctx) -> str:
            end = time.monotonic() + 20
            while not ctx.cancelled and time.monotonic() < end:
                time.sleep(0.01)
            ctx.raise_if_cancelled()
            return "not cancelled"

        @tool
        async def wait_async(self) -> str:
            try:
                await asyncio.sleep(20)
            finally:
                note("async cleaned")
            return "not cancelled"

        @tool
        def endless(self) -> Iterator[int]:
            n = 0
            try:
                while True:
                    yield n
                    n += 1
                    time.sleep(0.005)
            finally:
                note("generator closed")

        @tool
        async def endless_async(self) -> AsyncIterator[int]:
            n = 0
            try:
                while True:
                    yield n
                    n += 1
                    await asyncio.sleep(0.005)
            finally:
                note("async generator closed")

        @tool
        async def aloop(self) -> int:
            return id(asyncio.get_running_loop()) and await asyncio.sleep(0, 7)

        @tool
        def steps(self) -> Iterator[object]:
            yield Progress(0.5, "half")
            yield "done"
            raise ValueError("after two")

        @tool
        def size(self, payload: bytes) -> int:
            return len(payload)

        @tool
        def big(self, count: int) -> bytes:
            return bytes(count)

        @tool
        def bigs(self, count: int, times: int) -> Iterator[bytes]:
            for _ in range(times):
                yield bytes(count)

        @tool(errors={KeyError: "NOT_FOUND", ZeroDivisionError: "OUT_OF_RANGE"})
        def fail(self, how: str) -> object:
            if how == "value":
                raise ValueError("boom", 3)
            if how == "key":
                raise KeyError("k")
            if how == "zero":
                return 1 / 0
            if how == "not found":
                raise NotFound("nothing here")
            if how == "custom":
                raise Rejected("no " + "x" * 500)
            if how == "exit":
                raise SystemExit(3)
            if how == "unprintable":
                raise Unprintable("x")
            if how == "result":
                return {"deep": [object()]}
            if how == "os":
                open("/no/such/file")
            return None

        @tool(name="ns.renamed", description="Another name.")
        def original(self) -> None:
            """Not shown."""

        @tool
        @staticmethod
        def static(a: int = 4) -> int:
            return a

        def not_a_tool(self) -> None:
            pass
'''.replace("        @tool\n        @staticmethod\n", "        @staticmethod\n        @tool\n")
