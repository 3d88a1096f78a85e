"""tools.agents.start: a handle to wait for, stop or leave, and the rule at the caller's end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agents import (
    AgentHandle,
    AgentStopped,
    SubAgentFailed,
    SubAgentStopped,
    SyncTools,
    Tools,
    agent,
    cleanup,
    registry,
)
from agents.cancellation import StopMode
from agents.environment import ChildEnd
from agents.exceptions import AgentNotFound, InvalidInput
from agents.testing import Run, observed_run, running
from agents.tools.agents.client import AgentClient
from agents.tools.agents.handle import settle_started
from tests.support.agent_run import AgentRun, turn_loop, within

SECONDS = 10.0


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with registry.isolated():
        yield


class Child:
    """A started run, whose end a test decides."""

    id = "child-1"

    def __init__(self) -> None:
        self.ended: asyncio.Future[ChildEnd | None] = asyncio.get_running_loop().create_future()
        self.asked: list[str] = []
        self.modes: list[StopMode] = []

    async def wait(self) -> ChildEnd | None:
        return await asyncio.shield(self.ended)

    async def ask_to_stop(self, reason: str, mode: StopMode = StopMode.GRACEFUL) -> None:
        self.asked.append(reason)
        self.modes.append(mode)

    def end(self, status: Any = "success", **options: Any) -> None:
        self.ended.set_result(ChildEnd(status, **options))


class Caller:
    def __init__(self) -> None:
        self.child = Child()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.starting = asyncio.Event()
        self.inputs: list[object] = []

    async def start(self, name: str, input: object) -> Any:
        raise AssertionError("not called in its caller's process")

    async def queue(self, name: str, input: object) -> Child:
        self.inputs.append(input)
        self.starting.set()
        await self.may_start.wait()
        return self.child


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture
async def caller() -> Caller:
    return Caller()


@pytest.fixture
def client(run: AgentRun, caller: Caller) -> AgentClient:
    return AgentClient(run.guard, caller)


async def test_a_start_and_a_wait_are_two_calls(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def work() -> Any:
        handle = await client.start("other")
        caller.child.end(result={"n": 1})
        return handle.run, await handle

    assert await within(SECONDS, run.task(work())) == ("child-1", {"n": 1})
    assert caller.inputs == [{}]
    first, waited = run.events("agent_call")
    assert (first["tool"], first["run"], first["agent"]) == ("agents.start", "child-1", "other")
    assert (waited["tool"], waited["run"], waited["status"]) == (
        "agents.wait",
        "child-1",
        "success",
    )


async def test_to_wait_again_gives_the_same(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def work() -> Any:
        handle = await client.start("other")
        caller.child.end("error", error={"code": "x", "type": "X", "message": "lost"})
        raised = []
        for _ in range(2):
            with pytest.raises(SubAgentFailed, match="other failed: lost") as failed:
                await handle.wait()
            raised.append(failed.value.error["code"])
        return raised

    assert await within(SECONDS, run.task(work())) == ["x", "x"]


async def test_a_child_that_was_stopped_alone_is_an_error_that_can_be_caught(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def work() -> None:
        handle = await client.start("other")
        await handle.stop("too dear")
        caller.child.end("stopped")
        with pytest.raises(SubAgentStopped) as stopped:
            await handle
        assert stopped.value.run == handle.run

    await within(SECONDS, run.task(work()))
    assert caller.child.asked == ["too dear"]


async def test_a_stop_may_be_harder(run: AgentRun, caller: Caller, client: AgentClient) -> None:
    async def work() -> None:
        handle = await client.start("other")
        await handle.stop("too dear")
        await handle.stop(mode="abort")
        await handle.stop("enough", mode=StopMode.ABANDON)
        with pytest.raises(ValueError, match="kill"):
            await handle.stop(mode="kill")
        caller.child.end("stopped")
        with pytest.raises(SubAgentStopped):
            await handle

    await within(SECONDS, run.task(work()))
    assert caller.child.modes == ["graceful", "abort", "abandon"]
    assert caller.child.asked == ["too dear", "", "enough"]


async def test_a_wait_that_is_cut_leaves_the_child_alone(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def work() -> Any:
        handle = await client.start("other")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await handle
        assert not caller.child.asked
        caller.child.end(result="late")
        return await handle

    assert await within(SECONDS, run.task(work())) == "late"
    outcomes = [data["outcome"] for data in run.events("agent_call")]
    assert outcomes == ["ok", "aborted", "ok"]


@pytest.mark.parametrize("end", ["stopped", "error", None])
async def test_a_stop_of_the_caller_comes_out_of_the_wait_when_the_child_is_over(
    run: AgentRun, caller: Caller, client: AgentClient, end: Any
) -> None:
    handles: list[AgentHandle] = []

    async def work() -> None:
        handles.append(await client.start("other"))
        await handles[0]

    task = run.task(work())
    await within(SECONDS, caller.starting.wait())
    await turn_loop()
    run.stop()
    await turn_loop()
    assert not task.done()
    if end is None:
        caller.child.ended.set_result(None)  # the host goes away
    else:
        caller.child.end(end)
    with pytest.raises(AgentStopped, match="enough"):
        await within(SECONDS, task)
    assert run.only("stop_observed")["tool"] == "agents.wait"
    assert not caller.child.asked, "the stop of its caller is its own"


async def test_nothing_is_started_or_waited_for_after_a_stop_nor_in_cleanup(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def work() -> None:
        handle = await client.start("other")
        run.stop()
        async with cleanup():
            with pytest.raises(AgentStopped):
                await client.start("other")
            with pytest.raises(AgentStopped):
                await handle
            await handle.stop()  # not guarded
        handle.leave()

    await within(SECONDS, run.task(work()))
    assert len(caller.inputs) == 1
    assert caller.child.asked == [""]


async def test_a_child_whose_handle_is_lost_is_stopped(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    caller.may_start.clear()
    task = run.task(client.start("other"))
    await within(SECONDS, caller.starting.wait())
    run.stop()  # from here on a cancellation does not cut the start
    task.cancel()
    await turn_loop()
    caller.may_start.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    await turn_loop()
    assert len(caller.child.asked) == 1
    assert run.only("agent_call")["run"] == "child-1"


@pytest.mark.parametrize("ended", [True, False])
async def test_only_what_may_go_on_is_remembered(
    run: AgentRun, caller: Caller, client: AgentClient, ended: bool
) -> None:
    handle = await within(SECONDS, run.task(client.start("other")))
    if ended:
        caller.child.end(result="done")
        await within(SECONDS, run.task(handle.wait()))
    remembered = weakref.ref(handle)
    del handle
    gc.collect()
    assert (remembered() is None) is ended
    if not ended:
        caller.child.end("stopped")
    await within(SECONDS, run.task(settle_started(run.guard)))
    assert caller.child.asked == ([] if ended else ["its caller did not wait for it"])


# --- the caller's end, through agents.testing -------------------------------------------------


@pytest.fixture
def opened() -> Callable[[], asyncio.Event]:
    events: list[asyncio.Event] = []

    def get() -> asyncio.Event:
        if not events:
            events.append(asyncio.Event())
        return events[0]

    @agent("worker")
    async def worker(tools: Tools, n: int = 1) -> int:
        while not get().is_set():
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)
        return n * 2

    return get


async def ended_child(run: Run) -> Any:
    return await (await run.child()).result()


async def test_map_and_reduce(opened: Callable[[], asyncio.Event]) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> int:
        handles = [await tools.agents.start("worker", {"n": n}) for n in range(4)]
        opened().set()
        return sum(await asyncio.gather(*handles))

    async with running(caller) as run:
        result = await run.result()
    assert result.result == 12
    tools = [event.data["tool"] for event in result.events if event.type == "agent_call"]
    assert tools == ["agents.start"] * 4 + ["agents.wait"] * 4


async def test_def_agents_start_too(opened: Callable[[], asyncio.Event]) -> None:
    @agent("caller")
    def caller(tools: SyncTools) -> list[int]:
        first = tools.agents.start("worker", {"n": 1})
        second = tools.agents.start("worker", {"n": 2})
        third = tools.agents.start("worker", {"n": 3})
        third.stop("not needed")
        with pytest.raises(SubAgentStopped):
            third.wait()
        first.leave()
        tools.log("opened")
        return [first.wait(), second.wait()]

    async with running(caller) as run:
        await run.until("log")
        opened().set()
        result = await run.result()
    assert result.result == [2, 4]
    ends = [(await child.result()).status for child in run.children]
    assert ends == ["success", "success", "stopped"]


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_what_was_not_waited_for_is_stopped_and_its_end_waited_for(
    opened: Callable[[], asyncio.Event], how: str
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> str:
        await tools.agents.start("worker")
        if how == "raises":
            raise ValueError("lost")
        return "done"

    async with running(caller) as run:
        result = await run.result()
        child = await ended_child(run)
    assert result.status == {"returns": "success", "raises": "error"}[how]
    assert child.status == "stopped"
    asked = next(event for event in child.events if event.type == "stop_requested")
    assert asked.data["reason"] == "its caller did not wait for it"
    assert child.events[-1].ts <= result.events[-1].ts
    last = [event.data for event in result.events if event.type == "agent_call"][-1]
    assert (last["tool"], last["status"], last["outcome"]) == ("agents.wait", "stopped", "ok")


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_what_was_left_goes_on_and_the_run_is_over_when_it_is(
    opened: Callable[[], asyncio.Event], how: str
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> None:
        (await tools.agents.start("worker")).leave()
        if how == "raises":
            raise ValueError("lost")

    async with running(caller) as run:
        calls = await run.until_in_flight("agents.wait")
        assert calls[0]["label"] == "worker"
        worker = await run.child()
        so_far = sum(event.type == "data_store" for event in worker.events)
        await worker.until("data_store", so_far + 3)
        opened().set()
        result = await run.result()
        child = await ended_child(run)
    assert result.status == {"returns": "success", "raises": "error"}[how]
    assert child.status == "success"


async def test_a_stop_reaches_those_that_were_left_while_they_are_waited_for(
    opened: Callable[[], asyncio.Event],
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> str:
        (await tools.agents.start("worker")).leave()
        return "done"

    async with running(caller) as run:
        await run.until_in_flight("agents.wait")
        run.stop(reason="enough")
        result = await run.result()
        child = await ended_child(run)
    assert child.status == "stopped"
    assert (result.status, result.result) == ("success", "done"), "it had finished first"
    assert result.calls_started_after_stop == 0


async def test_a_stop_before_the_functions_end_stops_both(
    opened: Callable[[], asyncio.Event],
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> None:
        (await tools.agents.start("worker")).leave()
        await tools.agents.start("worker")
        await asyncio.gather(*[await tools.agents.start("worker") for _ in range(2)])

    async with running(caller) as run:
        await run.until_in_flight("agents.wait", 2)
        run.stop()
        result = await run.result()
        ends = [(await child.result()).status for child in run.children]
    assert result.status == "stopped"
    assert ends == ["stopped"] * 4
    assert result.calls_started_after_stop == 0
    calls = [event.data for event in result.events if event.type == "agent_call"]
    unawaited = {data["run"] for data in calls if data["tool"] == "agents.start"}
    unawaited -= {data["run"] for data in calls if data["tool"] == "agents.wait"}
    assert not unawaited
    own_waits = [data for data in calls if data.get("cleanup")]
    assert len(own_waits) >= 2, "the runtime's, after the stop"


async def test_what_was_started_is_stopped_at_once_though_the_run_waits_for_its_own_code(
    opened: Callable[[], asyncio.Event],
) -> None:
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    tasks: list[asyncio.Task[None]] = []

    @agent("caller")
    async def caller(tools: Tools) -> str:
        await tools.agents.start("worker")
        tasks.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)
        return "done"

    async with running(caller) as run:
        child = await run.child("worker")
        assert (await child.result()).status == "stopped"
        assert not tasks[0].done()
        let_go.set()
        assert (await run.result()).result == "done"


async def test_what_a_thread_starts_when_the_function_is_over_is_waited_for_as_well(
    opened: Callable[[], asyncio.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_start = asyncio.Event()
    queue = observed_run._Host.queue

    async def slow(self: Any, name: str, input: object) -> Any:
        await may_start.wait()
        return await queue(self, name, input)

    monkeypatch.setattr(observed_run._Host, "queue", slow)

    @agent("caller")
    def caller(tools: SyncTools) -> str:
        threading.Thread(target=tools.agents.start, args=["worker"], daemon=True).start()
        while not run.in_flight:
            time.sleep(0.001)
        return "done"

    async with running(caller) as run:
        # It is over, and the call in flight is waited for.
        while len(run._guard.in_flight._wakers) < 2:
            await asyncio.sleep(0.001)
        may_start.set()
        result = await run.result()
        child = await ended_child(run)
    assert (result.status, child.status) == ("success", "stopped")
    assert child.events[-1].ts <= result.events[-1].ts


async def test_what_does_not_fit_is_refused_and_nothing_is_started(
    opened: Callable[[], asyncio.Event],
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> None:
        with pytest.raises(AgentNotFound):
            await tools.agents.start("missing")
        with pytest.raises(InvalidInput):
            await tools.agents.start("worker", {"n": "many"})

    async with running(caller) as run:
        assert (await run.result()).status == "success"
    assert not run.children
