"""The guard: admission, what is in flight, one event per call, and what may cut a call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agents import AgentStopped, cleanup
from agents.cancellation import StopMode
from agents.exceptions import RunIsOver
from agents.guard import Guard, current_call, current_guard
from tests.support.agent_run import AgentRun, within

SECONDS = 10.0


class Backend:
    """Something slow behind a tool: a test sees it begin, and says when it ends."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cut = 0
        self.done = 0

    async def work(self, result: Any = "result") -> Any:
        self.begun.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        if isinstance(result, Exception):
            raise result
        self.done += 1
        return result


async def guarded(guard: Guard, backend: Backend, result: Any = "result") -> Any:
    with guard.call("http", "GET x") as call:
        return await call.uninterrupted(
            backend.work(result), lambda got: call.data.update(record=got)
        )


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = Backend()
    yield backend
    backend.may_end.set()  # or a test that fails would wait for ever


# --- one call ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (ValueError("bad"), "error"),
        (AgentStopped("enough"), "stopped"),
        (asyncio.CancelledError(), "aborted"),
        (GeneratorExit(), "aborted"),
        (SystemExit(1), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_a_call_leaves_one_event_that_says_how_it_ended(
    run: AgentRun, error: BaseException | None, outcome: str
) -> None:
    def call() -> None:
        with run.guard.call("data_store.get", "default/a", namespace="default") as call:
            call.data["key"] = "a"
            assert [c["call"] for c in run.trace.in_flight()] == [call.id]
            assert current_call() is call
            if error is not None:
                raise error
        assert current_call() is None

    with contextlib.suppress(BaseException):
        run.call(call)
    data = run.only("data_store")
    assert data.pop("duration_ms") >= 0
    assert data.pop("started_at").endswith("+00:00")
    expected: dict[str, Any] = {
        "call": data["call"],
        "tool": "data_store.get",
        "label": "default/a",
        "outcome": outcome,
        "namespace": "default",
        "key": "a",
    }
    if outcome == "error":
        expected["error"] = {"type": type(error).__name__, "message": str(error)}
    assert data == expected
    assert run.trace.in_flight() == []
    assert run.sink.activities == [1, 0]


@pytest.mark.parametrize(
    ("tool", "event"),
    [
        ("call_llm", "llm_call"),
        ("http", "http"),
        ("agents.call", "agent_call"),
        ("data_store.set", "data_store"),
    ],
)
def test_each_tool_has_its_type_of_event(run: AgentRun, tool: str, event: str) -> None:
    with run.guard.call(tool):
        pass
    assert run.only(event)["tool"] == tool


def test_an_exception_that_cant_be_printed_is_reported_all_the_same(run: AgentRun) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    with pytest.raises(Unprintable), run.guard.call("http"):
        raise Unprintable
    assert run.only("http")["error"]["type"] == "Unprintable"


def test_a_refused_call_leaves_no_event_of_its_own_but_the_first_refusal(run: AgentRun) -> None:
    run.stop()
    for number in range(3):
        with pytest.raises(AgentStopped, match="enough"), run.guard.call("http", f"GET {number}"):
            raise AssertionError("it was let through")
    assert [event.type for event in run.sink.events] == ["stop_observed"]
    assert run.only("stop_observed") == {"tool": "http", "label": "GET 0"}
    assert run.trace.in_flight() == []
    assert run.sink.activities == []


def test_a_check_refuses_without_making_a_call(run: AgentRun) -> None:
    run.guard.check("http")
    assert run.sink.events == []
    run.stop()
    with pytest.raises(AgentStopped):
        run.guard.check("http", "retry")
    assert run.only("stop_observed") == {"tool": "http", "label": "retry"}


def test_a_call_within_cleanup_says_so_and_is_not_counted_as_late(run: AgentRun) -> None:
    def save() -> None:
        with cleanup():
            with run.guard.call("http"):
                pass
            run.stop()
            with run.guard.call("data_store.set"):
                pass

    run.call(save)
    assert "cleanup" not in run.only("http")
    assert run.only("data_store")["cleanup"] is True
    assert run.guard.calls_started_after_acknowledgement == 0


def test_a_call_that_cleanup_lets_through_in_its_last_moment_is_not_counted_as_late(
    run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_once = iter([True])
    monkeypatch.setattr(cleanup, "is_open", property(lambda self: next(open_once, False)))
    run.stop()

    def save() -> None:
        with cleanup(), run.guard.call("data_store.set"):
            pass

    run.call(save)
    assert run.guard.calls_started_after_acknowledgement == 0
    assert run.only("data_store")["cleanup"] is True


def test_a_call_that_was_let_through_too_late_is_counted(
    run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is measured: with an admission that is broken it isn't 0."""
    run.stop()
    monkeypatch.setattr(type(run.token), "admit", lambda self, *args, **options: float("inf"))
    with run.guard.call("http"):
        pass
    assert run.guard.calls_started_after_acknowledgement == 1


# --- the end of a run -------------------------------------------------------------------------


def test_after_the_end_tools_cant_be_used(run: AgentRun) -> None:
    run.guard.close()
    with pytest.raises(RunIsOver, match="run is over"), run.guard.call("http"):
        pass
    run.stop()
    with pytest.raises(RunIsOver), run.guard.call("http"):
        pass
    assert run.sink.events == []


async def test_settling_waits_for_the_calls_in_flight_and_refuses_new_ones(run: AgentRun) -> None:
    first, second = run.guard.call("http").start(), run.guard.call("http").start()
    settling = asyncio.create_task(run.guard.settle())
    await asyncio.sleep(0)
    with pytest.raises(RunIsOver):
        run.guard.call("http").start()
    first.finish()
    await asyncio.sleep(0)
    assert not settling.done()
    second.finish()
    await within(SECONDS, settling)
    await within(SECONDS, run.guard.settle())


async def test_settling_waits_for_the_calls_of_threads(run: AgentRun) -> None:
    let_go = threading.Event()
    started = threading.Barrier(5)

    def call() -> None:
        with run.guard.call("http"):
            started.wait(SECONDS)
            let_go.wait(SECONDS)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(SECONDS)
    assert len(run.trace.in_flight()) == 4
    settling = asyncio.create_task(run.guard.settle())
    await asyncio.sleep(0)
    assert not settling.done()
    let_go.set()
    await within(SECONDS, settling)
    assert run.trace.in_flight() == []
    assert len(run.events("http")) == 4
    for thread in threads:
        thread.join(SECONDS)


def test_calls_of_threads_that_race_a_stop_are_either_finished_or_never_begun() -> None:
    for _ in range(100):
        run = AgentRun()
        start = threading.Barrier(5)
        touched: list[int] = []

        def call(
            run: AgentRun = run, start: threading.Barrier = start, touched: list[int] = touched
        ) -> None:
            start.wait(SECONDS)
            try:
                while True:
                    with run.guard.call("http"):
                        touched.append(1)
            except AgentStopped:
                pass

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        start.wait(SECONDS)
        run.stop()
        for thread in threads:
            thread.join(SECONDS)
        assert len(run.events("http")) == len(touched)
        assert len(run.events("stop_observed")) == 1
        assert run.guard.calls_started_after_acknowledgement == 0
        assert run.trace.in_flight() == []


# --- what may cut a call ----------------------------------------------------------------------


async def test_without_a_cancellation_the_result_comes_back(
    run: AgentRun, backend: Backend
) -> None:
    backend.may_end.set()
    assert await run.task(guarded(run.guard, backend)) == "result"
    assert run.only("http")["record"] == "result"
    assert run.guard.parts == set()


async def test_without_a_cancellation_the_error_comes_out(run: AgentRun, backend: Backend) -> None:
    backend.may_end.set()
    with pytest.raises(ValueError, match="bad"):
        await run.task(guarded(run.guard, backend, ValueError("bad")))
    assert run.only("http")["outcome"] == "error"


async def test_a_stop_does_not_cut_what_a_sibling_cancels(run: AgentRun, backend: Backend) -> None:
    async def branches() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(guarded(run.guard, backend))
            await backend.begun.wait()
            run.stop()
            run.guard.check()

    task = run.task(branches())
    await within(SECONDS, backend.begun.wait())
    while task.cancelling() == 0 and not run.events("stop_observed"):
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (backend.cut, task.done()) == (0, False)
    backend.may_end.set()
    with pytest.raises(BaseExceptionGroup) as failed:
        await within(SECONDS, task)
    assert [type(error) for error in failed.value.exceptions] == [AgentStopped]
    data = run.only("http")
    assert (data["outcome"], data["record"]) == ("ok", "result")


async def test_the_result_is_recorded_before_the_cancellation_is_passed_on(
    run: AgentRun, backend: Backend
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.begun.wait())
    run.stop()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second one changes nothing
    await asyncio.sleep(0)
    assert not task.done()
    backend.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert run.only("http")["record"] == "result"
    assert run.only("http")["outcome"] == "ok"


async def test_an_error_that_comes_after_the_cancellation_gives_way_to_it(
    run: AgentRun, backend: Backend
) -> None:
    task = run.task(guarded(run.guard, backend, ValueError("bad")))
    await within(SECONDS, backend.begun.wait())
    run.stop()
    task.cancel()
    await asyncio.sleep(0)
    backend.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    complaints = await complaints_of_the_collector()
    assert complaints == []


@pytest.mark.parametrize("result", ["result", ValueError("bad")])
async def test_an_own_time_limit_cuts_when_nobody_asked_for_a_stop(
    run: AgentRun, backend: Backend, result: Any
) -> None:
    before = asyncio.all_tasks()

    async def limited() -> None:
        async with asyncio.timeout(0.01):
            await guarded(run.guard, backend, result)

    with pytest.raises(TimeoutError):
        await within(SECONDS, run.task(limited()))
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"
    assert asyncio.all_tasks() == before, "the work goes on behind the agent's back"
    assert await complaints_of_the_collector() == []


async def test_a_second_cancellation_does_not_cut_twice(run: AgentRun) -> None:
    """httpx loses connections of its pool if it is cancelled while it closes one."""
    closing, may_close = asyncio.Event(), asyncio.Event()
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await may_close.wait()
            steps.append("closed")

    async def call() -> None:
        with run.guard.call("http") as call:
            await call.uninterrupted(work())

    task = run.task(call())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await within(SECONDS, closing.wait())
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    may_close.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert steps == ["closed"]


async def test_work_that_survives_its_cut_is_recorded_and_the_cancellation_passed_on(
    run: AgentRun,
) -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "all the same"
        raise AssertionError

    recorded: list[str] = []

    async def call() -> None:
        with run.guard.call("http") as call:
            await call.uninterrupted(work(), recorded.append)

    task = run.task(call())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert recorded == ["all the same"]
    assert run.only("http")["outcome"] == "ok"


async def test_a_process_that_goes_away_cuts_although_a_stop_is_on_its_way(
    run: AgentRun, backend: Backend
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.begun.wait())
    run.stop()
    task.cancel()  # by a sibling: not cut
    await asyncio.sleep(0)
    assert backend.cut == 0
    run.guard.host_cancelled = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"


@pytest.mark.parametrize("mode", [StopMode.ABORT, StopMode.ABANDON])
async def test_a_stop_that_is_harder_than_graceful_lets_a_cancellation_cut(
    run: AgentRun, backend: Backend, mode: StopMode
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.begun.wait())
    run.stop(mode)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert backend.cut == 1


async def test_the_end_of_cleanup_cuts_what_is_being_saved(run: AgentRun, backend: Backend) -> None:
    run.stop()

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                await guarded(run.guard, backend)
            finally:
                with pytest.raises(AgentStopped):
                    run.guard.check()

    with pytest.raises(AgentStopped, match="cut after"):
        await within(SECONDS, run.task(save()))
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"


async def test_the_end_of_an_outer_cleanup_cuts_what_is_being_saved_in_a_branch(
    run: AgentRun, backend: Backend
) -> None:
    run.stop()

    async def save() -> None:
        async with cleanup(seconds=0.02), asyncio.TaskGroup() as group:
            group.create_task(guarded(run.guard, backend))

    with pytest.raises(AgentStopped):
        await within(SECONDS, run.task(save()))
    assert backend.cut == 1


@pytest.mark.parametrize("mode", [StopMode.GRACEFUL, StopMode.ABORT])
async def test_a_sibling_that_is_done_earlier_does_not_cut_what_is_being_saved(
    run: AgentRun, backend: Backend, mode: StopMode
) -> None:
    """Branches that meet a stop save what they have, each at its own pace."""

    async def branch() -> None:
        try:
            run.guard.check()
        finally:
            async with cleanup():
                await guarded(run.guard, backend)

    async def branches() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())
            await backend.begun.wait()
            run.guard.check()

    run.stop(mode)
    task = run.task(branches())
    await within(SECONDS, backend.begun.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (backend.cut, task.done()) == (0, False)
    backend.may_end.set()
    with pytest.raises(BaseExceptionGroup):
        await within(SECONDS, task)
    assert run.only("http")["outcome"] == "ok"
    assert backend.done == 1


async def test_a_cancellation_that_came_before_the_call_cuts_it(
    run: AgentRun, backend: Backend
) -> None:
    async def call() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await guarded(run.guard, backend)

    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, run.task(call()))
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"
    assert await complaints_of_the_collector() == []


# --- the ambient guard ------------------------------------------------------------------------


async def test_the_guard_is_bound_in_the_run_and_nowhere_else(run: AgentRun) -> None:
    async def look() -> Guard | None:
        return current_guard()

    assert current_guard() is None
    assert await run.task(look()) is run.guard
    assert run.call(current_guard) is run.guard
    other = AgentRun(parent=run)
    assert await other.task(look()) is other.guard


async def test_a_called_agent_is_not_part_of_its_callers_call(run: AgentRun) -> None:
    calls: list[Any] = []

    def call() -> None:
        with run.guard.call("agents.call"):
            child = AgentRun(parent=run)
            child.call(lambda: calls.append(current_call()))

    run.call(call)
    assert calls == [None]


async def complaints_of_the_collector(
    make: Callable[[], Awaitable[None]] | None = None,
) -> list[dict[str, Any]]:
    """Return what the loop complains of when the collector has run: exceptions nobody saw."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    try:
        if make is not None:
            await make()
        await asyncio.sleep(0)
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    return complaints


async def test_the_collector_is_heard_when_it_complains() -> None:
    """Or else the tests above that rely on it can't fail."""

    async def forget() -> None:
        async def fail() -> None:
            raise ValueError("nobody sees this")

        task = asyncio.create_task(fail())
        await asyncio.wait([task])

    complaints = await complaints_of_the_collector(forget)
    assert [str(context["exception"]) for context in complaints] == ["nobody sees this"]
