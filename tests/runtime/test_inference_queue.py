"""The line before the engine: its length, and what becomes of work whose caller has gone."""

import asyncio
import threading

import pytest

from mask2edge.runtime.inference_queue import InferenceQueue, QueueFull


def test_work_is_done_in_order_by_one_thread():
    async def go():
        queue = InferenceQueue(waiting=10)
        threads, order = set(), []

        def work(number):
            threads.add(threading.get_ident())
            order.append(number)
            return number * number

        values = await asyncio.gather(*(queue.run(lambda number=number: work(number)) for number in range(8)))
        queue.close()
        return values, threads, order

    values, threads, order = asyncio.run(go())
    assert values == [number * number for number in range(8)]
    assert order == list(range(8))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_a_full_line_is_said_at_once_and_errors_give_their_place_back():
    async def go():
        queue, gate = InferenceQueue(waiting=1), threading.Event()
        held = [asyncio.ensure_future(queue.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert queue.is_full
        with pytest.raises(QueueFull):
            await queue.run(int)
        gate.set()
        assert await asyncio.gather(*held) == [True, True]
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await queue.run(lambda: 1 // 0)
        assert queue.held == 0
        queue.close()
        with pytest.raises(QueueFull):
            await queue.run(int)
        assert queue.held == 0

    asyncio.run(go())


def test_cancelled_work_leaves_the_line_and_begun_work_keeps_its_place():
    async def go():
        queue, gate, done = InferenceQueue(waiting=1), threading.Event(), []
        begun = asyncio.ensure_future(queue.run(gate.wait))
        waiting = asyncio.ensure_future(queue.run(lambda: done.append(1)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.sleep(0.05)
        assert queue.held == 1
        begun.cancel()
        await asyncio.sleep(0.05)
        assert queue.held == 1
        gate.set()
        queue.close()
        assert queue.held == 0
        assert done == []

    asyncio.run(go())
