"""How an agent's code is run, how it ends, and what is said of that."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

import httpx
import pytest

from agents import (
    AgentError,
    AgentStopped,
    SubAgentFailed,
    SubAgentStopped,
    SyncTools,
    Tools,
    agent,
    check_should_stop,
    cleanup,
    output,
    redaction,
    registry,
    runtime,
    should_stop,
)
from agents.cancellation import StopCause, current_token
from agents.environment import Environment
from agents.exceptions import RunIsOver
from agents.guard import current_call, current_guard
from agents.runtime import AgentTask, Outcome, run_agent, task_factory
from agents.testing import MemoryDataStore, ScriptedModel, running
from agents.tools.http import Transports
from agents.trace import current_trace
from tests.support.agent_run import AgentRun, within

SECONDS = 10.0
MESSAGES = [{"role": "user", "content": "Hello"}]


class SlowStore(MemoryDataStore):
    """A data store whose writes a test lets go, one by one or all at once."""

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

    def http_sync(self) -> httpx.BaseTransport:
        return self._mock


class Nobody:
    """Stands where there are no other agents."""

    async def start(self, name: str, input: object) -> Any:
        raise AssertionError("no agent is called here")


class Started(AgentRun):
    """A run of a function, begun as a host begins it."""

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
            self.guard, model or ScriptedModel(), self.store, Nobody(), MockTransports(http)
        )
        self.ending = asyncio.get_running_loop().create_task(
            run_agent(definition, {}, environment), context=context or contextvars.Context()
        )

    async def outcome(self) -> Outcome:
        outcome = await within(SECONDS, asyncio.shield(self.ending))
        assert self.trace.in_flight() == [], "the run is over, and a call is in flight"
        assert not self.guard.parts
        assert not self.guard.tasks
        return outcome

    def host_goes_away(self) -> None:
        self.guard.host_cancelled = True
        self.ending.cancel()


async def ended(function: Callable[..., Any], **options: Any) -> Outcome:
    """Run a function to its end."""
    return await Started(function, **options).outcome()


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture(autouse=True)
async def _agent_loop() -> AsyncIterator[None]:
    asyncio.get_running_loop().set_task_factory(task_factory)  # type: ignore[arg-type]
    yield
    while SlowStore.made:
        SlowStore.made.pop().may_write.set()  # or a test that fails would wait for ever


async def turns(number: int = 5) -> None:
    """Let everybody else take some steps."""
    for _ in range(number):
        await asyncio.sleep(0)


# --- endings without a stop -------------------------------------------------------------------


async def test_what_the_function_returns_is_the_result() -> None:
    async def work(tools: Tools) -> dict[str, Any]:
        return {"n": 1}

    run = Started(work)
    assert await run.outcome() == Outcome("success", result={"n": 1})
    assert [event.type for event in run.sink.events] == ["agent_start"]


async def test_a_def_agent_runs_in_a_thread_with_its_context() -> None:
    def work(tools: SyncTools) -> list[Any]:
        assert current_token() is not None
        assert current_trace() is current_guard().trace  # type: ignore[union-attr]
        tools.data_store.set("a", 1)
        return [threading.current_thread() is not threading.main_thread(), should_stop()]

    run = Started(work)
    assert (await run.outcome()).result == [True, False]
    assert run.only("data_store")["key"] == "a"


RAISED: list[tuple[BaseException, str, str]] = [
    (ValueError("bad"), "unhandled_exception", "ValueError"),
    (AgentError("mine"), "agent_error", "AgentError"),
    (AgentStopped("by myself"), "stopped_without_request", "AgentStopped"),
    (SystemExit(0), "unhandled_exception", "SystemExit"),
    (KeyboardInterrupt(), "unhandled_exception", "KeyboardInterrupt"),
    (asyncio.CancelledError(), "unhandled_exception", "CancelledError"),
    (GeneratorExit(), "unhandled_exception", "GeneratorExit"),
    (StopAsyncIteration(), "unhandled_exception", "StopAsyncIteration"),
    # A coroutine can't raise this one: Python makes a RuntimeError of it.
    (StopIteration(), "unhandled_exception", "RuntimeError"),
    (ExceptionGroup("several", [ValueError("one")]), "unhandled_exception", "ValueError"),
    (
        ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
        "unhandled_exception",
        "ExceptionGroup",
    ),
]
IDS = [f"{type(error).__name__}-{name}" for error, _, name in RAISED]


@pytest.mark.parametrize(("error", "code", "name"), RAISED, ids=IDS)
@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_whatever_is_raised_without_a_stop_ends_as_an_error(
    error: BaseException, code: str, name: str, is_async: bool
) -> None:
    async def coroutine(tools: Tools) -> None:
        raise error

    def function(tools: SyncTools) -> None:
        raise error

    run = Started(coroutine if is_async else function)
    outcome = await run.outcome()
    assert (outcome.kind, outcome.cleanup_error) == ("error", None)
    assert outcome.error is not None
    assert (outcome.error["code"], outcome.error["type"]) == (code, name)
    assert run.token.observed_at is None
    data = run.only("error")
    assert data["code"] == code
    assert name in data["traceback"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        AgentStopped("by myself"),
        GeneratorExit(),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("way", ["task", "gather", "TaskGroup"])
async def test_whatever_a_task_of_the_agent_raises_without_a_stop_ends_as_an_error(
    error: BaseException, way: str
) -> None:
    async def branch() -> None:
        raise error

    async def work(tools: Tools) -> None:
        match way:
            case "task":
                await asyncio.create_task(branch())
            case "gather":
                await asyncio.gather(branch(), asyncio.sleep(0))
            case "TaskGroup":
                async with asyncio.TaskGroup() as group:
                    group.create_task(branch())
                    group.create_task(asyncio.Event().wait())

    outcome = await ended(work)
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["type"] == type(error).__name__


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("way", ["task", "TaskGroup"])
def test_a_task_that_wants_to_end_the_process_ends_its_run_as_an_error(
    error: BaseException, way: str
) -> None:
    """asyncio lets these two out of the loop; a host, as we are here, lets it run on."""

    async def branch() -> None:
        raise error

    async def work(tools: Tools) -> None:
        if way == "task":
            await asyncio.create_task(branch())
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())

    async def begin() -> Started:
        return Started(work)

    loop = asyncio.new_event_loop()
    loop.set_task_factory(task_factory)  # type: ignore[arg-type]
    try:
        run = loop.run_until_complete(begin())
        with pytest.raises(type(error)):
            loop.run_until_complete(run.ending)
        outcome = loop.run_until_complete(run.outcome())
    finally:
        loop.close()
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["type"] == type(error).__name__


async def test_a_task_that_was_cancelled_by_the_agent_itself_ends_as_an_error() -> None:
    async def work(tools: Tools) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    outcome = await ended(work)
    assert outcome.error is not None
    assert (outcome.kind, outcome.error["type"]) == ("error", "CancelledError")


async def test_an_agent_that_cancels_its_own_task_is_still_waited_for() -> None:
    """The cancellation is met by the first await after the agent, which must not be ours."""
    begun, may_answer = threading.Event(), threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        begun.set()
        assert may_answer.wait(SECONDS)
        return httpx.Response(200, text="hello")

    def fetch() -> None:
        with httpx.Client(transport=run.sync_transport) as client:  # type: ignore[attr-defined]
            client.get("http://x")

    async def work(tools: Tools) -> None:
        from agents import guarded_transport

        run.sync_transport = guarded_transport(MockTransports(answer).http_sync())  # type: ignore[attr-defined]
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(fetch,), daemon=True).start()
        await asyncio.to_thread(begun.wait, SECONDS)
        asyncio.current_task().cancel()  # type: ignore[union-attr]

    run = Started(work)
    await asyncio.to_thread(begun.wait, SECONDS)
    await turns(20)
    assert not run.ending.done(), "the run has ended, and a call is in flight"
    may_answer.set()
    outcome = await run.outcome()
    assert outcome.error is not None
    assert (outcome.kind, outcome.error["type"]) == ("error", "CancelledError")


async def test_a_result_that_json_cant_hold_is_an_error_that_keeps_what_can_be_shown() -> None:
    async def work(tools: Tools) -> Any:
        return {"n": float("nan"), "o": object}

    outcome = await ended(work)
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["code"] == "invalid_output"
    assert outcome.partial_result["n"] == "NaN"


async def test_an_exception_that_cant_be_printed_is_an_error_like_any_other() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

        __repr__ = __str__

    async def work(tools: Tools) -> None:
        try:
            raise Unprintable
        except Unprintable as error:
            raise Unprintable from error

    outcome = await ended(work)
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["type"] == "Unprintable"


async def test_secrets_are_taken_out_of_errors_and_tracebacks() -> None:
    secret = "correct-horse-battery-staple"
    redaction.add_secret(secret)

    async def work(tools: Tools) -> None:
        raise ValueError("x" * (runtime.MAX_MESSAGE - 5) + secret)

    async def long_traceback(tools: Tools) -> None:
        text = "x" * (runtime.MAX_TRACEBACK - 2_000)
        for length in range(0, 2_000, 5):
            try:
                raise ValueError(text + "y" * length + secret)
            except ValueError as error:
                runtime._emit_error(current_guard(), error)  # type: ignore[arg-type]

    try:
        run = Started(work)
        outcome = await run.outcome()
        assert secret[:4] not in str(outcome.error)
        assert secret[:4] not in str(run.only("error"))
        run = Started(long_traceback)
        await run.outcome()
        for data in run.events("error"):
            assert secret[:4] not in data["traceback"]
    finally:
        redaction.forget_secrets()


# --- endings with a stop ----------------------------------------------------------------------


async def test_a_token_that_is_stopped_already_means_that_the_function_is_never_called() -> None:
    called: list[int] = []

    async def work(tools: Tools) -> None:
        called.append(1)

    parent = AgentRun()
    parent.stop()
    run = Started(work, parent=parent)
    assert await run.outcome() == Outcome("stopped")
    assert called == []
    assert [event.type for event in run.sink.events] == ["agent_start", "stop_observed"]


async def test_the_call_in_flight_finishes_and_the_next_is_refused() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        await tools.data_store.set("a", 1)
        await tools.data_store.set("b", 1)

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    run.stop()
    await turns()
    assert not run.ending.done()
    store.may_write.set()
    assert await run.outcome() == Outcome("stopped")
    assert store.entries == {"default": {"a": 1}}
    assert run.only("data_store")["outcome"] == "ok"
    assert run.only("stop_observed") == {"tool": "data_store.set", "label": "default/b"}
    assert run.guard.calls_started_after_acknowledgement == 0


async def test_a_stop_that_nobody_met_changes_nothing() -> None:
    async def work(tools: Tools) -> str:
        run.stop()
        return "done"

    run = Started(work)
    assert await run.outcome() == Outcome("success", result="done")
    assert run.token.observed_at is None


async def test_an_error_before_the_stop_was_met_is_an_error() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        raise ValueError("bad")

    run = Started(work)
    assert (await run.outcome()).kind == "error"


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_except_exception_does_not_swallow_a_stop(is_async: bool) -> None:
    steps: list[str] = []

    async def coroutine(tools: Tools) -> None:
        while True:
            try:
                run.stop()
                await tools.data_store.get("a")
            except Exception:
                steps.append("swallowed")
            finally:
                steps.append("finally")

    def function(tools: SyncTools) -> None:
        while True:
            try:
                run.stop()
                tools.data_store.get("a")
            except Exception:
                steps.append("swallowed")
            finally:
                steps.append("finally")

    run = Started(coroutine if is_async else function)
    assert await run.outcome() == Outcome("stopped")
    assert steps == ["finally"]


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_except_base_exception_delays_the_stop_to_the_next_guard(is_async: bool) -> None:
    swallowed: list[str] = []

    async def coroutine(tools: Tools) -> str:
        run.stop()
        for name in ("call_llm", "get"):
            try:
                await (tools.call_llm(MESSAGES) if name == "call_llm" else tools.data_store.get(""))
            except BaseException as error:
                swallowed.append(type(error).__name__)
        try:
            await tools.data_store.get("a")
        except BaseException as error:
            swallowed.append(type(error).__name__)
        return "as if nothing had happened"

    def function(tools: SyncTools) -> str:
        run.stop()
        for _ in range(2):
            try:
                tools.data_store.get("a")
            except BaseException as error:
                swallowed.append(type(error).__name__)
        return "as if nothing had happened"

    run = Started(coroutine if is_async else function)
    outcome = await run.outcome()
    assert outcome == Outcome("stopped", partial_result="as if nothing had happened")
    assert swallowed.count("AgentStopped") == 2
    assert run.events("data_store") == run.events("llm_call") == []


async def test_what_is_returned_after_the_stop_was_met_is_the_partial_result() -> None:
    async def work(tools: Tools) -> Any:
        run.stop()
        return {"parts": [1, 2], "stopped": should_stop(), "odd": float("inf")}

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    assert outcome.partial_result == {"parts": [1, 2], "stopped": True, "odd": "Infinity"}
    assert outcome.result is None
    assert outcome.error is None


async def test_an_exception_from_cleaning_up_is_kept_beside_the_stop() -> None:
    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.data_store.get("a")
        finally:
            raise OSError("disk full")

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    assert outcome.cleanup_error == {
        "code": "unhandled_exception",
        "type": "OSError",
        "message": "disk full",
    }
    assert run.only("error")["message"] == "disk full"


async def test_a_computing_loop_ends_at_its_check() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        while True:
            check_should_stop()

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")
    assert run.only("stop_observed")["tool"] == "check_should_stop"


async def test_agent_stopped_raised_by_the_agent_during_a_stop_counts_as_having_met_it() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        raise AgentStopped

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")
    assert run.token.observed_at is not None


@pytest.mark.parametrize(
    ("raised", "cleanup_error"),
    [
        ([AgentStopped(), AgentStopped()], None),
        ([BaseExceptionGroup("inner", [AgentStopped()]), AgentStopped()], None),
        ([AgentStopped(), asyncio.CancelledError()], None),
        ([AgentStopped(), ValueError("bad")], "ValueError"),
        ([ExceptionGroup("inner", [ValueError("bad")]), AgentStopped()], "ValueError"),
        ([ValueError("bad"), KeyError("worse")], "ExceptionGroup"),
    ],
)
async def test_groups_are_unwrapped(raised: list[BaseException], cleanup_error: str | None) -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        should_stop()
        raise BaseExceptionGroup("branches", raised)

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    found = outcome.cleanup_error and outcome.cleanup_error["type"]
    assert found == cleanup_error


# --- shutdown ---------------------------------------------------------------------------------


async def test_a_shutdown_that_was_met_interrupts_and_keeps_the_partial_result() -> None:
    async def work(tools: Tools) -> Any:
        run.token.request(reason="the worker goes away", cause=StopCause.SHUTDOWN)
        try:
            await tools.data_store.get("a")
        finally:
            return ["half"]  # noqa: B012 - agents do such things

    run = Started(work)
    assert await run.outcome() == Outcome("interrupted", partial_result=["half"])


async def test_a_wish_that_comes_after_the_shutdown_was_met_makes_it_a_stop() -> None:
    async def work(tools: Tools) -> None:
        run.token.request(cause=StopCause.SHUTDOWN)
        should_stop()
        run.token.request(cause=StopCause.WISH)
        await tools.data_store.get("a")

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")


async def test_a_shutdown_that_nobody_met_is_a_success_or_an_error() -> None:
    async def work(tools: Tools) -> str:
        run.token.request(cause=StopCause.SHUTDOWN)
        return "done"

    run = Started(work)
    assert (await run.outcome()).kind == "success"


async def test_a_host_that_goes_away_interrupts_and_finally_blocks_run() -> None:
    steps: list[str] = []
    waiting = asyncio.Event()

    async def work(tools: Tools) -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            steps.append("finally")

    run = Started(work)
    await within(SECONDS, waiting.wait())
    run.host_goes_away()
    assert await run.outcome() == Outcome("interrupted")
    assert steps == ["finally"]


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_host_that_goes_away_cuts_the_calls_in_flight(stopping: bool) -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        await tools.data_store.set("a", 1)

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    if stopping:
        run.token.request(cause=StopCause.SHUTDOWN)
    run.host_goes_away()
    assert (await run.outcome()).kind == "interrupted"
    assert run.only("data_store")["outcome"] == "aborted"


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_host_that_goes_away_cuts_the_calls_that_were_left_behind(stopping: bool) -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        background.append(asyncio.create_task(tools.data_store.set("a", 1)))
        await store.writing.wait()
        if stopping:
            run.token.request(cause=StopCause.SHUTDOWN)
        await asyncio.Event().wait()

    background: list[asyncio.Task[None]] = []
    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    await turns()
    run.host_goes_away()
    assert (await run.outcome()).kind == "interrupted"
    assert run.only("data_store")["outcome"] == "aborted"
    assert background[0].cancelled()


async def test_a_host_that_goes_away_during_the_end_of_a_stop_cuts_what_is_waited_for() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        await asyncio.gather(tools.data_store.set("a", 1), met(tools))

    async def met(tools: Tools) -> None:
        await store.writing.wait()
        run.stop()
        await tools.data_store.get("b")

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    await turns(20)
    assert not run.ending.done()
    run.host_goes_away()
    assert (await run.outcome()).kind == "stopped"
    assert run.only("data_store")["outcome"] == "aborted"


async def test_an_agent_that_gets_no_thread_ends_as_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("agent-"):
            raise RuntimeError("can't start new thread")  # as Python does, at the system's limit
        start(thread)

    def work(tools: SyncTools) -> None:
        raise AssertionError("not reached")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcome = await Started(work).outcome()
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert "can't start new thread" in outcome.error["message"]


async def test_a_host_that_goes_away_does_not_wait_for_a_thread() -> None:
    let_go = threading.Event()
    begun = threading.Event()
    refused: list[str] = []
    finished = threading.Event()

    def work(tools: SyncTools) -> None:
        begun.set()
        let_go.wait(SECONDS)
        try:
            tools.data_store.get("a")
        except RunIsOver as error:
            refused.append(type(error).__name__)
        finished.set()

    run = Started(work)
    await asyncio.to_thread(begun.wait, SECONDS)
    run.host_goes_away()
    assert (await run.outcome()).kind == "interrupted"
    let_go.set()
    assert await asyncio.to_thread(finished.wait, SECONDS)
    assert refused == ["RunIsOver"]


# --- what an agent leaves behind --------------------------------------------------------------


async def test_tasks_left_behind_are_cancelled_and_waited_for() -> None:
    steps: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns()
            steps.append("ended")

    async def work(tools: Tools) -> str:
        tasks.append(asyncio.create_task(background()))
        await asyncio.sleep(0)
        return "done"

    assert await ended(work) == Outcome("success", result="done")
    assert steps == ["ended"]
    assert tasks[0].cancelled()


async def test_what_was_left_behind_cant_use_the_tools_any_more() -> None:
    errors: list[str] = []

    async def background(tools: Tools) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await tools.data_store.set("late", 1)
            except BaseException as error:
                errors.append(type(error).__name__)

    async def work(tools: Tools) -> None:
        tasks.append(asyncio.create_task(background(tools)))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    run = Started(work)
    assert (await run.outcome()).kind == "success"
    assert errors == ["RunIsOver"]
    assert run.store.entries == {}


async def test_calls_that_were_left_behind_are_cut_when_nobody_asked_for_a_stop() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        tasks.append(asyncio.create_task(tools.data_store.set("a", 1)))
        await store.writing.wait()

    tasks: list[asyncio.Task[None]] = []
    run = Started(work, store=store)
    assert (await run.outcome()).kind == "success"
    assert run.only("data_store")["outcome"] == "aborted"


async def test_a_task_that_ignores_its_cancellation_is_left_running_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "LEFT_BEHIND_SECONDS", 0.01)
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async def work(tools: Tools) -> None:
        tasks.append(asyncio.create_task(stubborn(), name="stubborn"))
        tasks.append(asyncio.create_task(tools.http.send(request, stream=True)))
        await asyncio.wait([tasks[1]])  # and a response that nobody reads, too

    request = httpx.Request("GET", "http://x")
    tasks: list[asyncio.Task[Any]] = []
    run = Started(work)
    try:
        await within(SECONDS, asyncio.shield(run.ending))
        assert "stubborn" in run.only("log")["message"]
        assert run.trace.in_flight() == []
    finally:
        let_go.set()
    await within(SECONDS, tasks[0])


async def test_a_task_that_failed_unseen_complains_in_the_log_of_its_own_run() -> None:
    """The collector runs in whichever run makes garbage: that may be somebody else's."""

    async def fail() -> None:
        raise ValueError("a private matter")

    async def careless(tools: Tools) -> None:
        task = asyncio.create_task(fail())
        await turns()
        cycle: list[Any] = [task]
        cycle.append(cycle)
        del task, cycle
        made.set()
        await go_on.wait()

    async def other(tools: Tools) -> None:
        gc.collect()

    made, go_on = asyncio.Event(), asyncio.Event()
    output.install()
    gc.disable()
    try:
        first = Started(careless)
        await within(SECONDS, made.wait())
        second = Started(other)
        await second.outcome()
        go_on.set()
        await first.outcome()
    finally:
        gc.enable()
        output.uninstall()
    assert second.events("log") == []
    assert "never retrieved" in first.only("log")["message"]


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_response_that_nobody_reads_does_not_keep_the_run_from_ending(
    stopping: bool,
) -> None:
    class Endless(httpx.AsyncByteStream):
        closed = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b"x"

        async def aclose(self) -> None:
            self.closed = True

    body = Endless()

    async def work(tools: Tools) -> None:
        request = tools.http.build_request("GET", "http://x")
        responses.append(await tools.http.send(request, stream=True))
        if stopping:
            run.stop()
            await tools.http.get("http://x")

    responses: list[httpx.Response] = []
    run = Started(work, http=lambda request: httpx.Response(200, stream=body))
    assert (await run.outcome()).kind == ("stopped" if stopping else "success")
    assert body.closed
    assert len(run.events("http")) == 1


@pytest.mark.parametrize("way", ["gather", "TaskGroup"])
async def test_branches_that_are_in_a_call_when_another_meets_the_stop_finish_it(way: str) -> None:
    store = SlowStore()

    async def meets_it(tools: Tools) -> None:
        await store.writing.wait()
        run.stop()
        await tools.data_store.get("x")

    async def work(tools: Tools) -> None:
        if way == "gather":
            await asyncio.gather(tools.data_store.set("a", 1), meets_it(tools))
        async with asyncio.TaskGroup() as group:
            group.create_task(tools.data_store.set("a", 1))
            group.create_task(meets_it(tools))

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    await turns(20)
    assert run.events("stop_observed")
    assert not run.ending.done(), "the run has ended, and a call is in flight"
    store.may_write.set()
    assert await run.outcome() == Outcome("stopped")
    assert store.entries == {"default": {"a": 1}}
    assert run.only("data_store")["outcome"] == "ok"


@pytest.mark.parametrize("way", ["gather", "TaskGroup"])
async def test_branches_save_what_they_have_though_another_has_met_the_stop_before(
    way: str,
) -> None:
    """The first branch that meets the stop ends gather(): the others are left to the runtime."""
    store = SlowStore()

    async def branch(tools: Tools, name: str) -> None:
        try:
            await tools.data_store.set(name, "half")
            await tools.data_store.set(name, "whole")
        finally:
            async with cleanup():
                await tools.data_store.set(f"{name} notes", "saved")

    async def meets_it(tools: Tools) -> None:
        await store.writing.wait()
        run.stop()
        await tools.data_store.get("x")

    async def work(tools: Tools) -> None:
        branches = [branch(tools, "a"), branch(tools, "b"), meets_it(tools)]
        if way == "gather":
            await asyncio.gather(*branches)
        async with asyncio.TaskGroup() as group:
            for each in branches:
                group.create_task(each)

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    await turns(20)
    store.may_write.set()
    assert await run.outcome() == Outcome("stopped")
    assert store.entries == {
        "default": {"a": "half", "a notes": "saved", "b": "half", "b notes": "saved"}
    }
    assert run.guard.calls_started_after_acknowledgement == 0


async def test_a_branch_of_gather_that_is_left_behind_within_its_cleanup_is_not_cut() -> None:
    store = SlowStore()

    async def saves(tools: Tools) -> None:
        async with cleanup():
            await tools.data_store.set("notes", "saved")

    async def meets_it(tools: Tools) -> None:
        await store.writing.wait()
        await tools.data_store.get("x")

    async def work(tools: Tools) -> None:
        run.stop()
        await asyncio.gather(saves(tools), meets_it(tools))

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    await turns(20)
    store.may_write.set()
    assert await run.outcome() == Outcome("stopped")
    assert store.entries == {"default": {"notes": "saved"}}


async def test_an_end_that_fails_is_logged_and_is_an_end_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(guard: Any) -> None:
        raise OSError("can't be closed")

    async def work(tools: Tools) -> str:
        return "done"

    monkeypatch.setattr(runtime, "close_clients", fail)
    with caplog.at_level(logging.ERROR):
        assert await ended(work) == Outcome("success", result="done")
    assert "can't be closed" in caplog.text


# --- cleanup through the tools ----------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_saving_works_within_cleanup_and_is_refused_outside(is_async: bool) -> None:
    refused: list[str] = []

    async def coroutine(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            try:
                await tools.data_store.set("outside", 1)
            except AgentStopped:
                refused.append("outside")
            async with cleanup():
                assert should_stop()
                await tools.data_store.set("inside", 1)
                try:
                    await tools.agents.call("other")
                except AgentStopped:
                    refused.append("agents.call")

    def function(tools: SyncTools) -> None:
        try:
            run.stop()
            tools.call_llm(MESSAGES)
        finally:
            try:
                tools.data_store.set("outside", 1)
            except AgentStopped:
                refused.append("outside")
            with cleanup():
                assert should_stop()
                tools.data_store.set("inside", 1)
                try:
                    tools.agents.call("other")
                except AgentStopped:
                    refused.append("agents.call")

    run = Started(coroutine if is_async else function)
    assert await run.outcome() == Outcome("stopped")
    assert run.store.entries == {"default": {"inside": 1}}
    assert refused == ["outside", "agents.call"]
    assert run.only("data_store")["cleanup"] is True
    assert run.guard.calls_started_after_acknowledgement == 0


async def test_saving_that_takes_too_long_is_cut_at_the_limit_and_the_run_is_stopped() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            async with cleanup(seconds=0.02):
                await tools.data_store.set("a", 1)

    run = Started(work, store=store)
    assert await run.outcome() == Outcome("stopped")
    assert run.only("data_store")["outcome"] == "aborted"
    assert store.entries == {}


async def test_an_error_within_cleanup_is_the_cleanup_error() -> None:
    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            async with cleanup():
                await tools.data_store.set("", 1)

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    assert outcome.cleanup_error is not None
    assert outcome.cleanup_error["code"] == "invalid_entry"


async def test_closing_a_client_in_finally_happens_before_the_end() -> None:
    steps: list[str] = []

    class Client:
        async def aclose(self) -> None:
            await turns()
            steps.append("closed")

    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            await Client().aclose()

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")
    assert steps == ["closed"]


async def test_a_called_agent_is_not_let_through_by_its_callers_cleanup() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        await tools.data_store.get("a")

    async with cleanup():
        run = Started(work, context=contextvars.copy_context())
        assert await run.outcome() == Outcome("stopped")
    assert run.events("data_store") == []


# --- agents that call agents ------------------------------------------------------------------


async def test_a_stop_of_the_root_reaches_every_branch_and_they_end_before_it() -> None:
    ends: list[str] = []

    @agent("leaf")
    async def leaf(tools: Tools, name: str) -> None:
        try:
            await tools.call_llm(MESSAGES)
            await tools.call_llm(MESSAGES)
        finally:
            ends.append(name)

    @agent("middle")
    async def middle(tools: Tools, name: str, grouped: bool) -> None:
        try:
            calls = [tools.agents.call("leaf", {"name": f"{name}.{n}"}) for n in range(2)]
            if grouped:
                async with asyncio.TaskGroup() as group:
                    for call in calls:
                        group.create_task(call)
            else:
                await asyncio.gather(*calls)
        finally:
            ends.append(name)

    @agent("root")
    async def root(tools: Tools) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for n, grouped in enumerate([True, False]):
                    input_ = {"name": f"{n}", "grouped": grouped}
                    group.create_task(tools.agents.call("middle", input_))
        finally:
            ends.append("root")

    may_answer = asyncio.Event()

    async def answer(messages: Any) -> str:
        await may_answer.wait()
        return "an answer"

    async with running("root", model=ScriptedModel(answer)) as run:
        middles = [await run.child("middle", n) for n in (1, 2)]
        leaves = [await each.child("leaf", n) for each in middles for n in (1, 2)]
        for each in leaves:
            await each.until_in_flight("call_llm")
        run.stop(reason="enough")
        await turns(20)
        assert ends == []
        may_answer.set()
        assert (await run.result()).status == "stopped"
        for each in [*middles, *leaves]:
            result = await each.result()
            assert result.status == "stopped"
            assert result.calls_started_after_stop == 0
        for each in leaves:
            assert [e.data["outcome"] for e in each._of("llm_call")] == ["ok"]
    assert ends[-1] == "root"
    for n in "01":
        assert max(ends.index(f"{n}.0"), ends.index(f"{n}.1")) < ends.index(n)


async def test_a_child_that_was_stopped_alone_leaves_its_caller_alone() -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0)

    @agent("caller")
    async def caller(tools: Tools) -> str:
        try:
            await tools.agents.call("child")
        except SubAgentStopped as error:
            await tools.data_store.set("a", error.agent)
            return "went on"
        raise AssertionError

    async with running("caller") as run:
        (await run.child()).stop()
        result = await run.result()
    assert (result.status, result.result) == ("success", "went on")
    assert run._of("stop_observed") == []


async def test_a_childs_error_reaches_its_caller_as_one_of_ours() -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        raise KeyError("lost")

    @agent("caller")
    async def caller(tools: Tools) -> dict[str, Any]:
        try:
            await tools.agents.call("child")
        except SubAgentFailed as error:
            return {"agent": error.agent, **error.error}
        raise AssertionError

    async with running("caller") as run:
        result = await run.result()
    assert result.result == {
        "agent": "child",
        "code": "unhandled_exception",
        "type": "KeyError",
        "message": "'lost'",
    }


async def test_a_child_that_its_caller_left_behind_has_ended_before_its_caller() -> None:
    order: list[str] = []

    @agent("child")
    async def child(tools: Tools) -> None:
        try:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0)
        finally:
            await turns()
            order.append("child")

    @agent("caller")
    async def caller(tools: Tools) -> None:
        tasks.append(asyncio.create_task(tools.agents.call("child")))
        while not run.children:
            await asyncio.sleep(0)

    tasks: list[asyncio.Task[Any]] = []
    async with running("caller") as run:
        await run.result()
        order.append("caller")
        assert (await run.children[0].result()).status == "stopped"
    assert order == ["child", "caller"]


# --- one run after another --------------------------------------------------------------------

_leaked: ContextVar[str] = ContextVar("leaked", default="clean")


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_the_next_run_in_the_same_loop_starts_clean(is_async: bool) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append((_leaked.get(), should_stop(), current_call()))

    async def dirty(tools: Tools) -> None:
        _leaked.set("dirty")
        print("an unfinished line", end="")
        first.stop()
        async with cleanup():
            await tools.data_store.get("a")
            await tools.http.get("http://x")
        await tools.data_store.get("a")

    async def coroutine(tools: Tools) -> str:
        look()
        await tools.data_store.get("a")
        print("my own line")
        return "clean"

    def function(tools: SyncTools) -> str:
        look()
        tools.data_store.get("a")
        print("my own line")
        return "clean"

    output.install()
    try:
        first = Started(dirty)
        assert (await first.outcome()).kind == "stopped"
        second = Started(coroutine if is_async else function)
        assert await second.outcome() == Outcome("success", result="clean")
    finally:
        output.uninstall()
    assert seen == [("clean", False, None)]
    assert first.only("stdout")["text"] == "an unfinished line"
    assert second.only("stdout")["text"] == "my own line"
    assert second.events("stop_observed") == []
    assert (current_token(), current_trace(), current_guard(), _leaked.get()) == (
        None,
        None,
        None,
        "clean",
    )


async def test_a_stop_of_one_run_does_not_touch_the_one_beside_it() -> None:
    may_end = asyncio.Event()

    async def work(tools: Tools) -> str:
        await tools.data_store.get("a")
        await may_end.wait()
        await tools.data_store.get("b")
        return "done"

    runs = [Started(work) for _ in range(10)]
    await turns()
    for run in runs[::2]:
        run.stop()
    may_end.set()
    kinds = [(await run.outcome()).kind for run in runs]
    assert kinds == ["stopped", "success"] * 5


async def test_tasks_know_whose_they_are() -> None:
    async def work(tools: Tools) -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        assert isinstance(task, AgentTask)
        assert task.guard is current_guard()
        other = asyncio.create_task(asyncio.sleep(0), context=contextvars.Context())
        assert isinstance(other, AgentTask)
        assert other.guard is None
        assert task in run.guard.tasks
        await asyncio.gather(task, other)

    run = Started(work)
    assert (await run.outcome()).error is None


async def test_a_def_agent_that_uses_its_tools_on_the_loop_is_told_so() -> None:
    errors: list[str] = []

    def work(tools: SyncTools) -> None:
        def on_loop() -> None:
            try:
                tools.data_store.get("a")
            except RuntimeError as error:
                errors.append(str(error))
            finally:
                done.set()

        done = threading.Event()
        loop.call_soon_threadsafe(on_loop)
        assert done.wait(SECONDS)

    loop = asyncio.get_running_loop()
    assert (await ended(work)).kind == "success"
    assert "event loop" in errors[0]
