"""A run of a function, started as a host starts it, on stand-ins that a test controls."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, ClassVar

import httpx

from agents import agent, registry
from agents.environment import Environment
from agents.runtime import Outcome, run_agent
from agents.testing import MemoryDataStore, ScriptedModel
from agents.tools.http.client import Transports
from tests.support.agent_run import AgentRun, within

__all__ = [
    "MESSAGES",
    "SECONDS",
    "MockTransports",
    "SlowStore",
    "Started",
    "ended",
    "in_flight",
    "turns",
]

SECONDS = 10.0
MESSAGES = [{"role": "user", "content": "Hello"}]


class SlowStore(MemoryDataStore):
    """A data store whose writes a test releases, one by one or all at once."""

    made: ClassVar[list[SlowStore]] = []

    def __init__(self) -> None:
        super().__init__()
        self.writing = asyncio.Event()
        self.may_write = asyncio.Event()
        self.made.append(self)

    async def set_many(self, *args: Any) -> int:
        self.writing.set()
        await self.may_write.wait()
        return await super().set_many(*args)


class MockTransports(Transports):
    def __init__(self, answer: Callable[[httpx.Request], Any]) -> None:
        super().__init__()
        self._mock = httpx.MockTransport(answer)

    def http_async(self) -> httpx.AsyncBaseTransport:
        return self._mock


class NoAgents:
    """Takes the place of the agents client where no other agents exist."""

    async def start(self, name: str, input: object) -> Any:
        raise AssertionError("no agent is called here")


class Started(AgentRun):
    """A run of a function, started as a host starts it."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        store: MemoryDataStore | None = None,
        model: Any = None,
        http: Callable[[httpx.Request], Any] = lambda request: httpx.Response(200, text="hello"),
        parent: AgentRun | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        super().__init__(parent)
        with registry.isolated(empty=True):
            agent("t")(function)
            definition = registry.get("t")
        self.store = store or MemoryDataStore()
        environment = Environment(
            self.guard, model or ScriptedModel(), self.store, NoAgents(), MockTransports(http)
        )
        self.ending = asyncio.get_running_loop().create_task(
            run_agent(definition, {}, environment), context=context or contextvars.Context()
        )

    async def outcome(self) -> Outcome:
        outcome = await within(SECONDS, asyncio.shield(self.ending))
        assert self.trace.in_flight() == [], "the run has ended, and a call is in flight"
        assert not self.guard.parts
        assert not self.guard.tasks
        return outcome

    def host_goes_away(self) -> None:
        self.guard.host_cancelled = True
        self.ending.cancel()


async def ended(function: Callable[..., Any], **options: Any) -> Outcome:
    """Run a function to its end."""
    return await Started(function, **options).outcome()


async def turns(number: int = 5) -> None:
    """Let all other tasks take some steps."""
    for _ in range(number):
        await asyncio.sleep(0)


async def in_flight(run: AgentRun, tool: str, count: int = 1) -> list[str]:
    """Wait until so many calls, or known work, of a kind are in flight; return their labels."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = [call["label"] for call in run.trace.in_flight() if call["tool"] == tool]
            if len(found) == count:
                return found
            await asyncio.sleep(0.001)
