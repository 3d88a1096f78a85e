"""tools.agents: a call, its child's end, and callers that stop waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agents import AgentError, AgentStopped, SubAgentFailed, SubAgentStopped, cleanup
from agents.environment import ChildEnd
from agents.exceptions import AgentCallTooDeep, AgentNotFound, InvalidInput
from agents.tools.agents.client import AgentClient
from tests.support.agent_run import AgentRun, within

SECONDS = 10.0


class Child:
    """A called run, whose end a test decides."""

    id = "child-1"

    def __init__(self) -> None:
        self.ended: asyncio.Future[ChildEnd] = asyncio.get_running_loop().create_future()
        self.given_up = asyncio.Event()
        self.on_give_up: Callable[[], None] = lambda: None

    async def wait(self) -> ChildEnd:
        return await asyncio.shield(self.ended)

    def give_up(self) -> None:
        self.given_up.set()
        self.on_give_up()

    def end(self, status: Any = "success", **options: Any) -> None:
        self.ended.set_result(ChildEnd(status, **options))


class Caller:
    """Starts children when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []
        self.starting = asyncio.Event()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.child = Child()
        self.error: BaseException | None = None

    async def start(self, name: str, input: object) -> Child:
        self.asked.append((name, input))
        self.starting.set()
        await self.may_start.wait()
        if self.error is not None:
            raise self.error
        return self.child


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    caller = Caller()
    yield caller
    caller.may_start.set()  # or a test that fails would wait for ever
    if not caller.child.ended.done():
        caller.child.end()
    caller.child.ended.exception()


@pytest.fixture
def client(run: AgentRun, caller: Caller) -> AgentClient:
    return AgentClient(run.guard, caller)


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_the_result_of_the_child_comes_back(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    caller.child.end(result={"n": 1})
    assert await run.task(client.call("other", {"x": 1})) == {"n": 1}
    assert caller.asked == [("other", {"x": 1})]
    data = run.only("agent_call")
    assert data["tool"] == "agents.call"
    assert (data["agent"], data["run"], data["status"]) == ("other", "child-1", "success")
    assert (data["label"], data["outcome"]) == ("other", "ok")


async def test_no_input_is_an_empty_one(run: AgentRun, caller: Caller, client: AgentClient) -> None:
    caller.child.end()
    assert await run.task(client.call("other")) is None
    assert caller.asked == [("other", {})]


async def test_a_childs_error_is_told_as_its_record_has_it(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    error = {"code": "unhandled_exception", "type": "KeyError", "message": "lost"}
    caller.child.end("error", error=error)
    with pytest.raises(SubAgentFailed, match="other failed: lost") as failed:
        await run.task(client.call("other"))
    assert (failed.value.agent, failed.value.run) == ("other", "child-1")
    assert failed.value.error == error
    assert failed.value.error is not error
    data = run.only("agent_call")
    assert (data["outcome"], data["status"]) == ("error", "error")


async def test_a_child_that_was_stopped_alone_is_an_error_that_can_be_caught(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    caller.child.end("stopped")
    with pytest.raises(SubAgentStopped) as stopped:
        await run.task(client.call("other"))
    assert isinstance(stopped.value, AgentError)
    assert run.token.observed_at is None
    assert run.only("agent_call")["status"] == "stopped"


async def test_a_stop_of_the_caller_waits_for_the_child_and_raises(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    run.stop()
    await turns()
    assert not task.done()
    assert not caller.child.given_up.is_set(), "the token reaches it"
    caller.child.end("stopped")
    with pytest.raises(AgentStopped, match="enough"):
        await within(SECONDS, task)
    assert run.only("stop_observed")["tool"] == "agents.call"
    assert run.only("agent_call")["outcome"] == "stopped"


async def test_a_child_that_finished_first_gives_its_result_though_a_stop_came(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    run.stop()
    caller.child.end(result="just in time")
    assert await within(SECONDS, task) == "just in time"


@pytest.mark.parametrize(
    "error", [AgentNotFound("no"), InvalidInput("bad"), AgentCallTooDeep("deep")]
)
async def test_what_is_refused_before_a_child_exists_comes_out_as_it_is(
    run: AgentRun, caller: Caller, client: AgentClient, error: Exception
) -> None:
    caller.error = error
    with pytest.raises(type(error)):
        await run.task(client.call("other"))
    data = run.only("agent_call")
    assert data["outcome"] == "error"
    assert "run" not in data


async def test_a_stop_while_the_child_is_being_started_comes_out(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    caller.may_start.clear()
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    run.stop()
    caller.error = AgentStopped("enough")  # what a host answers to a caller that is stopping
    caller.may_start.set()
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)


async def test_within_cleanup_nothing_is_started(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def agent() -> None:
        async with cleanup():
            await client.call("other")

    run.stop()
    with pytest.raises(AgentStopped):
        await within(SECONDS, run.task(agent()))
    assert caller.asked == []


# --- callers that stop waiting -------------------------------------------------------------------


async def test_a_time_limit_stops_the_child_and_waits_for_its_end(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def agent() -> None:
        async with asyncio.timeout(0.01):
            await client.call("other")

    task = run.task(agent())
    await within(SECONDS, caller.child.given_up.wait())
    await turns()
    assert not task.done()
    caller.child.end("stopped")
    with pytest.raises(TimeoutError):
        await within(SECONDS, task)
    assert run.only("agent_call")["outcome"] == "aborted"
    assert run.token.observed_at is None


@pytest.mark.parametrize("after", range(5))
async def test_a_call_whose_caller_gives_up_as_the_child_starts_is_no_success(
    run: AgentRun, caller: Caller, client: AgentClient, after: int
) -> None:
    caller.may_start.clear()
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    caller.may_start.set()
    await turns(after)
    task.cancel()
    await turns(10)
    caller.child.end("stopped")
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    data = run.only("agent_call")
    assert data["outcome"] == "aborted"
    assert caller.child.given_up.is_set() == ("run" in data)


async def test_a_second_cancellation_waits_for_the_child_all_the_same(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    await turns()
    for _ in range(3):
        task.cancel()
        await turns()
    assert not task.done()
    caller.child.end("stopped")
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)


async def test_a_caller_that_gives_up_while_the_child_is_being_started_begins_none(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    caller.may_start.clear()
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert not caller.child.given_up.is_set()
    assert "run" not in run.only("agent_call")


async def test_a_child_that_came_into_being_while_its_caller_was_cancelled_is_given_up(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    caller.may_start.clear()
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    run.stop()  # from here on a cancellation does not cut the start
    task.cancel()
    await turns()
    caller.may_start.set()
    await within(SECONDS, caller.child.given_up.wait())
    assert not task.done()
    caller.child.end("stopped")
    with pytest.raises(BaseException) as raised:
        await within(SECONDS, task)
    assert isinstance(raised.value, AgentStopped | asyncio.CancelledError)
    assert run.only("agent_call")["run"] == "child-1"


async def test_cut_by_a_sibling_that_met_the_stop_it_raises_agent_stopped_once_the_child_ended(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    async def branches() -> None:
        async with asyncio.TaskGroup() as group:
            calling = group.create_task(client.call("other"))
            await caller.starting.wait()
            await turns()
            calls.append(calling)
            run.stop()
            run.guard.check()

    calls: list[asyncio.Task[Any]] = []
    task = run.task(branches())
    await within(SECONDS, caller.child.given_up.wait())
    assert not task.done()
    caller.child.end("stopped")
    with pytest.raises(BaseExceptionGroup) as failed:
        await within(SECONDS, task)
    assert {type(error) for error in failed.value.exceptions} == {AgentStopped}
    assert isinstance(calls[0].exception(), AgentStopped)


async def test_a_caller_outlives_its_child_also_when_the_host_goes_away(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    await turns()
    run.guard.host_cancelled = True
    task.cancel()
    await turns()
    assert not task.done(), "children end before their caller"
    assert not caller.child.given_up.is_set(), "a shutdown is no stop request"
    caller.child.ended.set_exception(asyncio.CancelledError())  # the host cancels it, too
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)


async def test_a_child_whose_end_cant_be_learned_is_not_complained_about_later(
    run: AgentRun, caller: Caller, client: AgentClient
) -> None:
    task = run.task(client.call("other"))
    await within(SECONDS, caller.starting.wait())
    await turns()
    task.cancel()
    await turns()
    waiting = next(iter(run.guard.parts))
    caller.child.ended.set_exception(OSError("no database"))
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert not waiting._log_traceback  # type: ignore[attr-defined]
