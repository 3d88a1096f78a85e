"""Runs that a test watches and stops."""

from __future__ import annotations

import asyncio
import contextvars
import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.tools.llm.client import Model
from agents.tools.llm.stand_in import StandIn

from .. import output, registry
from ..cancellation import DEADLINE_REACHED, IDLE, CancelToken, StopMode
from ..environment import MAX_DEPTH, ChildEnd, Environment
from ..exceptions import AgentCallTooDeep, AgentNotFound
from ..guard import Guard
from ..options import Limits
from ..registry import AgentDefinition
from ..runtime import run_agent, task_factory
from ..trace import Event, Trace, Usage
from ..wire import CallOnWire, ErrorInfo
from .in_memory import AnsweredRequests, Handler, MemoryDataStore

__all__ = ["Result", "Run", "run", "running"]

SECONDS = 10.0  # how long a test waits before it fails


@asynccontextmanager
async def running(
    agent: Callable[..., Any] | str,
    input: Mapping[str, Any] | None = None,
    *,
    model: Model | None = None,
    data_store: MemoryDataStore | None = None,
    http: Handler | None = None,
    seconds: float = SECONDS,
) -> AsyncIterator[Run]:
    """Run an agent while the test continues: ``async with running(agent, {...}) as run:``.

    The agent starts at the block's first ``await``, and the block's end waits for the run's. If the
    block fails, the run is cut off. Events hold what the agent prints and logs.

    Args:
        agent: the decorated function, or the agent's name.
        input: its parameters by name, as JSON: checked like the input of any run.
        model: a ``ScriptedModel``; without, the stand-in, at full speed.
        data_store: to read afterwards, or to share between runs; without, an empty one.
        http: answers the requests of ``tools.http``; without, each is refused.
        seconds: how long each wait may take before it fails the test.

    Raises:
        AgentNotFound: it is no agent, or one whose signature can't be described.
        InvalidInput: the input does not fit.
        AssertionError: the run did not end in time.
    """
    definition = _definition_of(agent)
    arguments = definition.validate_input({} if input is None else input)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(task_factory)  # type: ignore[arg-type]  # stays: another run may need it
    own_model: Model | None = None
    if model is None:
        model = own_model = Model(transport=StandIn(speed=math.inf))
    setting = _Setting(
        model=model,
        data_store=MemoryDataStore() if data_store is None else data_store,
        transports=AnsweredRequests(http),
        seconds=seconds,
    )
    output.install()
    try:
        run = Run(definition, arguments, setting)
        try:
            yield run
            await run.result()
        finally:
            await run._cut_off()
    finally:
        output.uninstall()
        if own_model is not None:
            await own_model.aclose()


def run(
    agent: Callable[..., Any] | str,
    input: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Run an agent to its end, from a test that is a plain function.

    ``options`` are those of ``running``, which is what a coroutine uses.
    """

    async def main() -> Result:
        async with running(agent, input, **options) as run:
            return await run.result()

    return asyncio.run(main())


def _definition_of(agent: Callable[..., Any] | str) -> AgentDefinition:
    if isinstance(agent, str):
        return registry.get(agent)
    for definition in registry.all():
        if definition.function is agent:
            return definition
    problems = [problem.message for problem in registry.problems()]
    raise AgentNotFound(" ".join(["this function is not an agent.", *problems]))


@dataclass(frozen=True, slots=True)
class Result:
    """How a run has ended, as its record would say.

    Attributes:
        partial_result: what a stopped agent returned.
        error: code, type and message, if ``status`` is ``error``.
        cleanup_error: the exception that a stopped agent raised instead of the stop.
        events: its whole trace, ``agent_end`` last.
        calls_started_after_stop: always 0, those inside ``cleanup()`` apart.
    """

    status: Literal["success", "error", "stopped"]
    result: Any
    partial_result: Any
    error: ErrorInfo | None
    cleanup_error: ErrorInfo | None
    events: list[Event]
    usage: Usage
    calls_started_after_stop: int


class Run:
    """One run of an agent under test, or of an agent that it called.

    Attributes:
        children: the runs that it has called or started, in the order of their start.
        events: its trace so far.
        token: its cancel token, for tests below the tools.
    """

    def __init__(
        self,
        definition: AgentDefinition,
        arguments: dict[str, Any],
        setting: _Setting,
        parent: Run | None = None,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.agent = definition.name
        self.children: list[Run] = []
        self.events: list[Event] = []
        self.token: CancelToken = CancelToken(parent.token if parent else None)
        self._setting = setting
        self._depth: int = parent._depth + 1 if parent else 0
        host = _Host(self)
        self._trace = Trace(self.id, self.agent, host, depth=self._depth)
        self._guard = Guard(self.token, self._trace)
        self._limits = _LimitTimers(self, definition.options.limits)
        environment = Environment(
            self._guard, setting.model, setting.data_store, host, setting.transports
        )
        self._is_abandoned = asyncio.Event()
        self._task = setting.loop.create_task(
            self._main(definition, arguments, environment),
            name=f"agent {self.agent}",
            context=setting.context.copy(),
        )
        self._task.add_done_callback(lambda _: setting.changed())

    @property
    def in_flight(self) -> list[CallOnWire]:
        """The guarded calls in flight, oldest first."""
        return self._trace.in_flight()

    def stop(self, mode: StopMode | str = StopMode.GRACEFUL, reason: str = "") -> None:
        """Ask the run, and all that it has called, to stop; from any thread, repeatedly."""
        mode = StopMode(mode)
        if mode is StopMode.ABANDON:
            raise ValueError("abandon is not for tests: the agent would outlive its test")
        self._stop(mode, reason)

    def _stop(self, mode: StopMode, reason: str, **more: Any) -> None:
        known = self.token.mode
        if known is None or mode.rank > known.rank:
            self._trace.emit("stop_requested", {"mode": str(mode), "reason": reason, **more})
        self.token.request(mode, reason)

    async def until(self, event_type: str, count: int = 1) -> Event:
        """Wait for the run's ``count``-th event of a type, and return it.

        Raises:
            AssertionError: the run has ended without, or the time is over.
        """
        await self._wait(lambda: len(self._of(event_type)) >= count, f"{event_type} no. {count}")
        return self._of(event_type)[count - 1]

    async def until_in_flight(self, tool: str, count: int = 1) -> list[CallOnWire]:
        """Wait until ``count`` calls of a tool are in flight at once, and return them.

        ``tool`` is ``call_llm``, ``http``, ``agents.call``, ``agents.wait`` or
        ``data_store.<method>``.

        Raises:
            AssertionError: the run has ended without, or the time is over.
        """

        def calls() -> list[CallOnWire]:
            return [call for call in self.in_flight if call["tool"] == tool]

        await self._wait(lambda: len(calls()) >= count, f"{count} x {tool} in flight")
        return calls()

    async def child(self, agent: str | None = None, count: int = 1) -> Run:
        """Wait until the run has called ``count`` agents (of a name), and return the last one.

        Raises:
            AssertionError: the run has ended without, or the time is over.
        """

        def children() -> list[Run]:
            return [child for child in self.children if agent in (None, child.agent)]

        await self._wait(
            lambda: len(children()) >= count, f"call of agent {agent or 'any'} no. {count}"
        )
        return children()[count - 1]

    async def result(self) -> Result:
        """Wait for the run's end, and return how it ended.

        Raises:
            AssertionError: the time is over.
        """
        await self._wait(self._task.done, "end")
        return self._task.result()

    async def wait(self) -> ChildEnd:
        """Be a ``ChildRun``: for the runtime."""
        abandoned = asyncio.ensure_future(self._is_abandoned.wait())
        try:
            await asyncio.wait([self._task, abandoned], return_when=asyncio.FIRST_COMPLETED)
        finally:
            abandoned.cancel()
        if self._is_abandoned.is_set():
            return ChildEnd("stopped")
        result = self._task.result()
        return ChildEnd(result.status, result.result, result.error)

    def give_up(self) -> None:
        """Be a ``ChildRun``: for the runtime."""
        self.stop(reason="its caller does not wait any longer")

    async def ask_to_stop(self, reason: str, mode: StopMode = StopMode.GRACEFUL) -> None:
        """Be a ``StartedRun``: for the runtime."""
        if self._task.done():
            return
        if mode is StopMode.ABANDON:  # its caller sees its end; the test's end cuts it off
            self.token.request(mode, reason)
            self._is_abandoned.set()
        else:
            self.stop(mode, reason)

    async def _cut_off(self) -> None:
        """End what is still running, as a process does that is going away."""
        left = [run for run in self._tree() if not run._task.done()]
        if not left:
            return
        for run in left:
            run._guard.host_cancelled = True
        for run in left:
            run._task.cancel()
        tasks = [run._task for run in left]
        _, still_running = await asyncio.wait(tasks, timeout=self._setting.seconds)
        if still_running:
            raise AssertionError(f"{self.agent} can't be ended\n{self}")

    def _tree(self) -> list[Run]:
        return [self, *(run for child in self.children for run in child._tree())]

    async def _main(
        self, definition: AgentDefinition, arguments: dict[str, Any], environment: Environment
    ) -> Result:
        self._limits.start()
        outcome = await run_agent(definition, arguments, environment)
        self._limits.close()
        status: Literal["success", "error", "stopped"] = "error"
        error = outcome.error
        if outcome.kind == "interrupted":
            message = "the test was over before the agent was"
            error = {"code": "worker_shutdown", "type": "CancelledError", "message": message}
        else:
            status = outcome.kind
        self._trace.emit("agent_end", {"status": status, "error": error})
        self._trace.close()
        return Result(
            status,
            outcome.result,
            outcome.partial_result,
            error,
            outcome.cleanup_error,
            self.events,
            self._trace.usage,
            self._guard.calls_started_after_acknowledgement,
        )

    def _of(self, event_type: str) -> list[Event]:
        return [event for event in self.events if event.type == event_type]

    async def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(self._setting.seconds):
                while not is_so():
                    if self._task.done():
                        raise AssertionError(f"{self.agent} has ended without: {what}\n{self}")
                    await self._setting.change()
        except TimeoutError:
            raise AssertionError(
                f"no {what} of {self.agent} within {self._setting.seconds:g} s\n{self}"
            ) from None

    def __str__(self) -> str:
        lines = [f"  {event.seq:3} {event.type} {json.dumps(event.data)}" for event in self.events]
        lines += [f"      in flight: {call['tool']} {call['label']}" for call in self.in_flight]
        return "\n".join([f"{self.agent}:", *lines, *map(str, self.children)])


class _LimitTimers:
    """Stops a run at its limits, as its host does."""

    def __init__(self, run: Run, limits: Limits) -> None:
        self._run = run
        self._limits = limits
        self._timers: list[asyncio.TimerHandle] = []

    def start(self) -> None:
        """Start the clocks: the run's code is called now."""
        run, limits = self._run, self._limits
        run._guard.call_seconds = limits.call_seconds
        if limits.deadline_seconds is not None:
            run.token.deadline = min(run.token.deadline, time.monotonic() + limits.deadline_seconds)
        if not math.isinf(run.token.deadline):
            self._later(run.token.deadline - time.monotonic(), self._at_deadline)
        if limits.idle_seconds is not None:
            run._trace.alive_at = time.monotonic()
            self._later(limits.idle_seconds, self._look_for_life)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, act))

    def _at_deadline(self) -> None:
        limit = self._limits.deadline_seconds
        self._run._stop(StopMode.GRACEFUL, DEADLINE_REACHED, limit={"kind": "wall", "limit": limit})

    def _look_for_life(self) -> None:
        limit = self._limits.idle_seconds
        assert limit is not None
        alive_at = max(run._trace.alive_at for run in self._run._tree() if not run._task.done())
        left = alive_at + limit - time.monotonic()
        if left > 0:
            self._later(left, self._look_for_life)
        else:
            self._run._stop(StopMode.GRACEFUL, IDLE, limit={"kind": "idle", "limit": limit})


@dataclass(slots=True, eq=False)
class _Setting:
    """What the runs of one tree have in common."""

    model: Model
    data_store: MemoryDataStore
    transports: AnsweredRequests
    seconds: float
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    _change: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        """Wake the waiting test; from any thread."""
        with suppress(RuntimeError):  # the loop is closed, and no test waits
            self.loop.call_soon_threadsafe(self._wake)

    async def change(self) -> None:
        """Wait for the next change."""
        await self._change.wait()

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


class _Host:
    """Keeps a run's events, wakes the test that waits for them, and starts the agents below it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def event(self, event: Event) -> None:
        self._run.events.append(event)
        self._run._setting.changed()

    def activity(self, trace: Trace) -> None:
        self._run._setting.changed()

    def text(self, trace: Trace, call: str, text: str) -> None:
        pass

    async def start(self, name: str, input: object) -> Run:
        run = self._run
        definition = registry.get(name)
        arguments = definition.validate_input(input)
        if run._depth + 1 >= MAX_DEPTH:
            raise AgentCallTooDeep(f"agents called each other {MAX_DEPTH} levels deep")
        run.token.admit("agents.call", name, in_cleanup=False)
        child = Run(definition, arguments, run._setting, parent=run)
        run.children.append(child)
        run._setting.changed()
        return child

    queue = start
