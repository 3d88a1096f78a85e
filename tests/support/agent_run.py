"""A run without a record: a guard, a token and a trace, bound as the runtime binds them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agents.cancellation import CancelToken, bind_token
from agents.guard import Guard, bind_guard
from agents.trace import Event, Trace, bind_trace

T = TypeVar("T")


@dataclass
class ListSink:
    """Keeps everything that a trace emits."""

    events: list[Event] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    activities: list[int] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def activity(self, trace: Trace) -> None:
        self.activities.append(len(trace.in_flight()))

    def text(self, trace: Trace, call: str, text: str) -> None:
        self.texts.append((call, text))


class AgentRun:
    """One run: ``await run.task(work())`` and ``run.call(function)`` execute agent code in it."""

    def __init__(self, parent: AgentRun | None = None) -> None:
        self.sink = ListSink()
        above: CancelToken | None = parent.token if parent else None
        self.token = CancelToken(above)
        self.trace = Trace(run="0" * 12, agent="t", sink=self.sink)
        self.guard = Guard(self.token, self.trace)
        self.context = contextvars.copy_context()
        self.context.run(self._bind)

    def _bind(self) -> None:
        bind_token(self.token)
        bind_trace(self.trace)
        bind_guard(self.guard)

    def task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return asyncio.get_running_loop().create_task(work, context=self.context.copy())

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return self.context.copy().run(function, *args)

    def stop(self, mode: str = "graceful") -> None:
        self.token.request(mode, "enough")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.sink.events if event.type == kind]

    def only(self, kind: str) -> dict[str, Any]:
        events = self.events(kind)
        assert len(events) == 1, f"{len(events)} events of type {kind}"
        return events[0]

    @property
    def shown(self) -> str:
        return "".join(text for _, text in self.sink.texts)


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Await ``work``; fail if it takes too long, also if a cancellation doesn't end it."""
    task = asyncio.ensure_future(work)
    await asyncio.wait((task,), timeout=seconds)
    if not task.done():
        task.cancel()
        raise AssertionError(f"this took more than {seconds:g} s")
    return task.result()


async def turn_loop() -> None:
    """Let the loop run everything that is ready, such as a pending cancellation."""
    for _ in range(20):
        await asyncio.sleep(0)


def waiter() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return what runs a coroutine on this loop, and waits for it in the calling thread."""
    loop = asyncio.get_running_loop()

    def wait(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    return wait
