"""An abort cuts the calls in flight, from any thread, and raises AgentStopped there."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agents import AgentStopped, cleanup
from agents.cancellation import StopMode
from agents.guard.in_flight import QUIET_SECONDS
from tests.support.agent_run import AgentRun, turn_loop, within
from tests.support.guarded_calls import SECONDS, Backend, complaints_of_the_collector, guarded


async def saved(run: AgentRun, backend: Backend) -> Any:
    """A call that must be finished, such as a write to a database."""
    with run.guard.call("data_store.set", "x", is_cuttable=False) as call:
        return await call.uninterrupted(backend.work())


@pytest.mark.parametrize("from_a_thread", [False, True])
@pytest.mark.parametrize("first", ["graceful", None])
async def test_a_call_in_flight_is_cut(
    run: AgentRun, backend: Backend, from_a_thread: bool, first: str | None
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    if first is not None:
        run.stop(first)
        await turn_loop()
        assert not task.done()
    if from_a_thread:
        threading.Thread(target=run.stop, args=("abort",)).start()
    else:
        run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert (backend.cut, backend.done) == (1, 0)
    assert run.only("http")["outcome"] == "aborted"
    assert run.only("stop_observed") == {"tool": "http", "label": "GET x"}
    assert run.guard.calls_cut == 1
    assert not run.guard.cuts
    assert await complaints_of_the_collector() == []


@pytest.mark.parametrize("reply_is_first", [True, False])
async def test_work_that_is_complete_when_the_cut_comes_counts(
    run: AgentRun, backend: Backend, reply_is_first: bool
) -> None:
    """Both orders, within one turn of the loop."""
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    steps = [backend.may_end.set, lambda: run.stop("abort")]
    for step in steps if reply_is_first else reversed(steps):
        step()
    if reply_is_first:
        assert await within(SECONDS, task) == "result"
        assert run.only("http")["outcome"] == "ok"
        assert run.guard.calls_cut == 0
    else:
        ended = await within(SECONDS, asyncio.gather(task, return_exceptions=True))
        outcome = run.only("http")["outcome"]
        assert outcome == ("ok" if ended == ["result"] else "aborted")
    with pytest.raises(AgentStopped):
        run.guard.check()


async def test_what_must_be_finished_is_not_cut(run: AgentRun, backend: Backend) -> None:
    task = run.task(saved(run, backend))
    await within(SECONDS, backend.started.wait())
    run.stop("abort")
    task.cancel()  # such as by a TaskGroup whose other branch was cut
    await turn_loop()
    assert (backend.cut, task.done()) == (0, False)
    backend.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert run.only("data_store")["outcome"] == "ok"
    assert run.guard.calls_cut == 0


@pytest.mark.parametrize("must_finish", [True, False])
async def test_abandoning_cuts_all(run: AgentRun, backend: Backend, must_finish: bool) -> None:
    task = run.task(saved(run, backend) if must_finish else guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    run.stop("abandon")
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert backend.cut == 1
    assert run.trace.closed
    assert [event.type for event in run.sink.events] == []


async def test_an_abort_shortens_no_cleanup_and_abandoning_does(
    run: AgentRun, backend: Backend
) -> None:
    run.stop()

    async def save() -> None:
        async with cleanup(seconds=60):
            await guarded(run.guard, backend)

    task = run.task(save())
    await within(SECONDS, backend.started.wait())
    run.stop("abort")
    await turn_loop()
    assert (backend.cut, task.done()) == (0, False)
    run.stop("abandon")
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert backend.cut == 1


@pytest.mark.parametrize("aborted_first", [True, False])
async def test_a_call_whose_caller_is_cancelled_at_the_same_time_is_cut_once(
    run: AgentRun, backend: Backend, aborted_first: bool
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    steps: list[Any] = [lambda: run.stop("abort"), task.cancel]
    for step in steps if aborted_first else reversed(steps):
        step()
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert backend.cut == 1
    assert run.guard.calls_cut == 1


async def test_a_cut_of_many_calls_is_counted_for_each(run: AgentRun) -> None:
    backends = [Backend() for _ in range(5)]
    tasks = [run.task(guarded(run.guard, backend)) for backend in backends]
    for backend in backends:
        await within(SECONDS, backend.started.wait())
    run.stop("abort")
    ended = await within(SECONDS, asyncio.gather(*tasks, return_exceptions=True))
    assert [type(error) for error in ended] == [AgentStopped] * 5
    assert run.guard.calls_cut == 5


async def test_an_abort_of_the_caller_cuts_calls_of_its_children(backend: Backend) -> None:
    root = AgentRun()
    child = AgentRun(parent=AgentRun(parent=root))
    task = child.task(guarded(child.guard, backend))
    await within(SECONDS, backend.started.wait())
    root.stop("abort")
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)


@pytest.mark.parametrize("mode", list(StopMode))
async def test_a_call_that_is_registered_after_the_abort_is_cut(
    run: AgentRun, backend: Backend, mode: StopMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop comes after the admission, and before the call can be found by it."""
    create = run.guard.create_task

    def create_task(work: Any) -> Any:
        monkeypatch.undo()
        run.stop(mode)
        return create(work)

    monkeypatch.setattr(run.guard, "create_task", create_task)
    task = run.task(guarded(run.guard, backend))
    if mode is StopMode.GRACEFUL:
        backend.may_end.set()
        assert await within(SECONDS, task) == "result"
    else:
        with pytest.raises(AgentStopped):
            await within(SECONDS, task)


async def _subscribe(run: AgentRun, backend: Backend) -> None:
    with run.guard.call("http", "GET x") as call:
        call.note_endless()
        await call.uninterrupted(backend.work())


@pytest.mark.parametrize("mode", ["graceful", "abort"])
async def test_what_has_no_end_is_cut_by_any_stop(
    run: AgentRun, backend: Backend, mode: str
) -> None:
    task = run.task(_subscribe(run, backend))
    await within(SECONDS, backend.started.wait())
    run.stop(mode)
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert backend.cut == 1
    assert run.only("http")["outcome"] == ("stopped" if mode == "graceful" else "aborted")
    assert run.guard.calls_cut == (mode == "abort")


async def test_what_has_no_end_is_cut_only_after_the_calls_in_flight(
    run: AgentRun, backend: Backend
) -> None:
    """Code that waits for such a call may be cancelled with the stream: a client of MCP is."""
    other = Backend()
    endless = run.task(_subscribe(run, backend))
    call = run.task(guarded(run.guard, other))
    await within(SECONDS, backend.started.wait())
    await within(SECONDS, other.started.wait())
    run.stop()
    for _ in range(3):
        await asyncio.sleep(QUIET_SECONDS)
    assert not endless.done()
    other.may_end.set()
    assert await within(SECONDS, call) == "result"
    assert not endless.done()
    with pytest.raises(AgentStopped):
        await within(SECONDS, endless)


async def test_a_cancellation_cuts_what_has_no_end_although_a_stop_is_on_its_way(
    run: AgentRun, backend: Backend
) -> None:
    other = Backend()
    endless = run.task(_subscribe(run, backend))
    call = run.task(guarded(run.guard, other))
    await within(SECONDS, backend.started.wait())
    run.stop()
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, endless)
    other.may_end.set()
    await within(SECONDS, call)
