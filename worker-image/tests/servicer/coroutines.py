"""The servicer of coroutines and asynchronous generators, with the cases of plain.py."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import cases_pb2
import cases_pb2_grpc
import grpc

from servicer.plain import METADATA, WAIT, TrailingStatus, UnprintableError, code_of, event, seen

Reply = cases_pb2.Reply


class Coroutines(cases_pb2_grpc.CoroutinesServicer):
    async def One(self, ask: Any, context: Any) -> Any:
        return await getattr(self, "one_" + ask.case)(ask, context)

    async def Many(self, ask: Any, context: Any) -> Any:
        async for reply in getattr(self, "many_" + ask.case)(ask, context):
            yield reply

    async def Written(self, ask: Any, context: Any) -> None:
        async for reply in getattr(self, "many_" + ask.case)(ask, context):
            await context.write(reply)

    async def Sum(self, asks: Any, context: Any) -> Any:
        first = await anext(asks, None)
        return await getattr(self, "sum_" + (first.case if first else "nothing"))(first, asks, context)

    async def Chat(self, asks: Any, context: Any) -> Any:
        first = await anext(asks, None)
        async for reply in getattr(self, "chat_" + (first.case if first else "nothing"))(first, asks, context):
            yield reply

    async def ReadAndWrite(self, asks: Any, context: Any) -> None:
        first = await context.read()
        await getattr(self, "written_" + (first.case if first is not grpc.aio.EOF else "nothing"))(first, context)

    # One request, one response.

    async def one_echo(self, ask: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        return Reply(text=ask.case, number=ask.number, data=ask.data, words=ask.words)

    async def one_empty(self, ask: Any, context: Any) -> Any:
        return Reply()

    async def one_code(self, ask: Any, context: Any) -> Any:
        context.set_code(code_of(ask))
        return Reply(text="dropped")

    async def one_details(self, ask: Any, context: Any) -> Any:
        context.set_details(ask.words[0])
        return Reply(text="details without a code")

    async def one_code_and_details(self, ask: Any, context: Any) -> Any:
        context.set_code(code_of(ask))
        context.set_details(ask.words[1])
        return Reply(text="dropped")

    async def one_details_of_wrong_type(self, ask: Any, context: Any) -> Any:
        context.set_details(7)
        return Reply()

    async def one_details_none(self, ask: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, None)

    async def one_abort(self, ask: Any, context: Any) -> Any:
        await context.abort(code_of(ask), ask.words[1])

    async def one_abort_swallowed(self, ask: Any, context: Any) -> Any:
        try:
            await context.abort(code_of(ask), "first")
        except Exception:
            return Reply(text="swallowed")

    async def one_abort_then_raise(self, ask: Any, context: Any) -> Any:
        try:
            await context.abort(code_of(ask), "first")
        except Exception:
            raise ValueError("second") from None

    async def one_abort_twice(self, ask: Any, context: Any) -> Any:
        try:
            await context.abort(code_of(ask), "first")
        except Exception:
            await context.abort(grpc.StatusCode.NOT_FOUND, "second")

    async def one_abort_with_status(self, ask: Any, context: Any) -> Any:
        context.set_trailing_metadata((("x-before", "1"),))
        await context.abort_with_status(TrailingStatus(code_of(ask), ask.words[1], METADATA["good"]))

    async def one_abort_with_trailing(self, ask: Any, context: Any) -> Any:
        context.set_trailing_metadata(METADATA["good"])
        await context.send_initial_metadata((("x-first", "1"),))
        await context.abort(code_of(ask), "with metadata")

    async def one_abort_keeps_details(self, ask: Any, context: Any) -> Any:
        context.set_details("set before")
        await context.abort(code_of(ask))

    async def one_raise(self, ask: Any, context: Any) -> Any:
        raise ValueError(ask.words[0])

    async def one_raise_with_code(self, ask: Any, context: Any) -> Any:
        context.set_code(code_of(ask))
        context.set_trailing_metadata((("x-a", "1"),))
        raise ValueError("with a code")

    async def one_raise_with_details(self, ask: Any, context: Any) -> Any:
        context.set_details("set before")
        raise ValueError("not shown")

    async def one_raise_unprintable(self, ask: Any, context: Any) -> Any:
        raise UnprintableError

    async def one_raise_key_error(self, ask: Any, context: Any) -> Any:
        return {}["missing"]

    async def one_exit(self, ask: Any, context: Any) -> Any:
        sys.exit(3)

    async def one_none(self, ask: Any, context: Any) -> Any:
        return None

    async def one_wrong_type(self, ask: Any, context: Any) -> Any:
        return "text"

    async def one_other_message(self, ask: Any, context: Any) -> Any:
        return ask

    async def one_initial(self, ask: Any, context: Any) -> Any:
        await context.send_initial_metadata(METADATA[ask.words[0]])
        return Reply(text="sent")

    async def one_initial_twice(self, ask: Any, context: Any) -> Any:
        await context.send_initial_metadata((("x-a", "1"),))
        await context.send_initial_metadata((("x-a", "2"),))
        return Reply(text="not reached")

    async def one_trailing(self, ask: Any, context: Any) -> Any:
        context.set_trailing_metadata(METADATA[ask.words[0]])
        return Reply(text="set")

    async def one_metadata(self, ask: Any, context: Any) -> Any:
        """Send back what came, as initial and as trailing metadata; HTTP/2 keeps the order of one key's values only."""
        came = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        came.sort(key=lambda pair: pair[0])
        await context.send_initial_metadata(came)
        context.set_trailing_metadata(tuple((f"t-{key}", value) for key, value in came))
        return Reply(words=[repr(pair) for pair in came])

    async def one_state(self, ask: Any, context: Any) -> Any:
        before = [context.code(), context.details(), context.trailing_metadata(), context.done(), context.cancelled()]
        context.set_code(grpc.StatusCode.OK)
        context.set_details("said")
        context.set_trailing_metadata([("x-a", "1")])
        after = [context.code(), context.details(), context.trailing_metadata(), context.done(), context.cancelled()]
        return Reply(words=[repr(value) for value in before + after])

    async def one_caller(self, ask: Any, context: Any) -> Any:
        known = [context.peer().partition(":")[0], context.peer_identities(), context.peer_identity_key()]
        known += sorted(context.auth_context().items())
        known += [value for key, value in context.invocation_metadata() if key == "user-agent"]
        return Reply(words=[repr(value) for value in known])

    async def one_remaining(self, ask: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        return Reply(words=[type(remaining).__name__, str(0 < remaining <= ask.number)])

    async def one_compression(self, ask: Any, context: Any) -> Any:
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        return Reply(data=bytes(10_000))

    async def one_contextvar(self, ask: Any, context: Any) -> Any:
        before = seen.get()
        seen.set("set by a call")
        return Reply(text=before)

    async def one_sleep(self, ask: Any, context: Any) -> Any:
        await context.send_initial_metadata((("x-begun", "1"),))
        try:
            await asyncio.sleep(WAIT)
        except asyncio.CancelledError:
            event(ask.words[0]).set()
            raise
        return Reply(text="too late")

    async def one_callback(self, ask: Any, context: Any) -> Any:
        context.add_done_callback(lambda ended: event(ask.words[0]).set() if ended is context else None)
        return Reply()

    async def one_was_set(self, ask: Any, context: Any) -> Any:
        return Reply(text=str(await asyncio.to_thread(event(ask.words[0]).wait, WAIT)))

    async def one_read(self, ask: Any, context: Any) -> Any:
        return Reply(text=str(await context.read()))

    async def one_session(self, ask: Any, context: Any) -> Any:
        if context.session is None:
            return Reply(text="none")
        context.session.state.count = context.session.state.get("count", 0) + 1
        words = [context.session.state.started, context.worker.name, str(bool(context.request_id))]
        return Reply(text=context.session.name, number=context.session.state.count, words=words)

    async def one_meet(self, ask: Any, context: Any) -> Any:
        """Return once four calls are here, all on one loop."""
        self.here = getattr(self, "here", 0) + 1
        while self.here < 4:
            await asyncio.sleep(0.01)
        return Reply(text="met")

    # One request, many responses.

    async def many_count(self, ask: Any, context: Any) -> Any:
        for number in range(ask.number):
            yield Reply(number=number, data=ask.data)

    async def many_with_metadata(self, ask: Any, context: Any) -> Any:
        await context.send_initial_metadata(METADATA["good"])
        yield Reply(number=1)
        context.set_trailing_metadata(METADATA["good"])
        yield Reply(number=2)
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("at the end")

    async def many_late_initial(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        await context.send_initial_metadata((("x-a", "1"),))

    async def many_abort(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        yield Reply(number=2)
        await context.abort(grpc.StatusCode.ABORTED, "mid-stream")

    async def many_abort_at_once(self, ask: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.ABORTED, "before the first")
        yield Reply()

    async def many_raise(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        raise ValueError("mid-stream")

    async def many_none(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        yield None
        yield Reply(number=3)

    async def many_wrong_type(self, ask: Any, context: Any) -> Any:
        yield Reply(number=1)
        yield "text"
        yield Reply(number=3)

    async def many_raise_at_once(self, ask: Any, context: Any) -> Any:
        if ask.case:
            raise KeyError("no message")
        yield Reply()

    async def many_forever(self, ask: Any, context: Any) -> Any:
        number = 0
        try:
            while True:
                yield Reply(number=number)
                number += 1
        finally:
            event(ask.words[0]).set()

    # Many requests, one response.

    async def sum_nothing(self, first: Any, asks: Any, context: Any) -> Any:
        return Reply(text="no request")

    async def sum_all(self, first: Any, asks: Any, context: Any) -> Any:
        rest = [ask async for ask in asks]
        return Reply(number=sum(ask.number for ask in rest) + first.number, words=[str(len(rest) + 1)])

    async def sum_early(self, first: Any, asks: Any, context: Any) -> Any:
        return Reply(number=(await anext(asks)).number)

    async def sum_abort(self, first: Any, asks: Any, context: Any) -> Any:
        await anext(asks)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "enough")

    async def sum_raise(self, first: Any, asks: Any, context: Any) -> Any:
        await anext(asks)
        raise ValueError("enough")

    async def sum_wait(self, first: Any, asks: Any, context: Any) -> Any:
        await context.send_initial_metadata((("x-begun", "1"),))
        try:
            async for _ in asks:
                pass
        finally:
            # grpc.aio shows a cancel as the end of the requests or as CancelledError, whatever comes first.
            event(first.words[0]).set()
        return Reply(text="ended")

    # Many requests, many responses.

    async def chat_nothing(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(text="no request")

    async def chat_echo(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(number=first.number, data=first.data)
        async for ask in asks:
            yield Reply(number=ask.number, data=ask.data)

    async def chat_backwards(self, first: Any, asks: Any, context: Any) -> Any:
        for ask in reversed([first] + [ask async for ask in asks]):
            yield Reply(number=ask.number)

    async def chat_early(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(number=first.number)
        context.set_code(grpc.StatusCode.CANCELLED)
        context.set_details("by the handler")

    async def chat_abort(self, first: Any, asks: Any, context: Any) -> Any:
        yield Reply(number=1)
        await context.abort(grpc.StatusCode.DATA_LOSS, "数据丢失")

    # The context's reader and writer.

    async def written_nothing(self, first: Any, context: Any) -> None:
        await context.write(Reply(text="no request"))

    async def written_echo(self, first: Any, context: Any) -> None:
        ask = first
        while ask is not grpc.aio.EOF:
            await context.write(Reply(number=ask.number, data=ask.data))
            ask = await context.read()

    async def written_at_once(self, first: Any, context: Any) -> None:
        """Read in one task while another one writes."""
        got: list[int] = []
        first_read = asyncio.Event()

        async def reading() -> None:
            while (ask := await context.read()) is not grpc.aio.EOF:
                got.append(ask.number)
                first_read.set()

        task = asyncio.create_task(reading())
        await asyncio.sleep(0)
        await context.write(Reply(text="reads"))
        await first_read.wait()
        await context.write(Reply(text="has read"))
        await task
        await context.write(Reply(words=[str(number) for number in got]))

    async def written_abandoned(self, first: Any, context: Any) -> None:
        """End while a task still waits for requests."""
        self.reading = asyncio.create_task(context.read())
        self.reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.sleep(0)
        await context.write(Reply(text="ends"))

    async def written_after_abort(self, first: Any, context: Any) -> None:
        await context.write(Reply(number=1))
        try:
            await context.abort(grpc.StatusCode.ABORTED, "first")
        except grpc.aio.AbortError:
            await context.write(Reply(number=2))
