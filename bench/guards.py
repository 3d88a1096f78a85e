"""The cost of a check, and of a guarded call with its event."""

from __future__ import annotations

import asyncio
import timeit
from collections.abc import Iterator

from .measure import Figure, distribution, ratio

__all__ = ["measure"]

REPEATS = 30


def measure() -> Iterator[Figure]:
    from agents.cancellation import CancelToken, bind_token, check_should_stop
    from agents.guard import Guard
    from agents.trace import Event, Trace

    class NullSink:
        def event(self, event: Event) -> None:
            pass

        def activity(self, trace: Trace) -> None:
            pass

        def text(self, trace: Trace, call: str, text: str) -> None:
            pass

    def empty() -> None:
        pass

    token = CancelToken()
    bind_token(token)
    bare = _per_call(empty, 200_000)
    check = distribution(
        "one check_should_stop()", "ns", _per_call(check_should_stop, 200_000), target=40
    )
    baseline = distribution("an empty function", "ns", bare)
    yield check
    yield baseline
    yield ratio("check relative to empty", check, baseline)

    guard = Guard(token, Trace("0" * 36, "bench", NullSink(), max_events=10**9))

    def guarded() -> None:
        with guard.call("data_store.get", "default/key", namespace="default", key="key"):
            pass

    yield distribution("one guarded call with its event", "us", _per_call(guarded, 5_000, 1e6))

    async def nothing() -> None:
        pass

    async def uninterrupted(count: int) -> None:
        for _ in range(count):
            with guard.call("data_store.get", "default/key") as call:
                await call.uninterrupted(nothing())

    async def times() -> list[float]:
        loop = asyncio.get_running_loop()
        found = []
        for _ in range(REPEATS):
            started = loop.time()
            await uninterrupted(2_000)
            found.append((loop.time() - started) / 2_000 * 1e6)
        return found

    yield distribution(
        "the same around an await, protected from cancellation", "us", asyncio.run(times())
    )


def _per_call(function: object, count: int, scale: float = 1e9) -> list[float]:
    timer = timeit.Timer("f()", globals={"f": function})
    timer.timeit(count)
    return [timer.timeit(count) / count * scale for _ in range(REPEATS)]
