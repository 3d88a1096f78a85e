"""What a run waits for at its end besides tasks: threads and processes; and what ends the wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import SyncTools, Tools
from agents.exceptions import RunIsOver
from agents.runtime import Outcome
from tests.support.agent_run import within
from tests.support.started_run import SECONDS, Started, in_flight, turns


class Witness:
    """Writes a file from the code of a run; the test reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.may_leave = threading.Event()

    def watch(self) -> None:
        """Be in a thread until the test lets it go."""
        self.say("begun")
        self.may_leave.wait(SECONDS)
        self.say("left")

    def say(self, word: str) -> None:
        with self._path.open("a") as file:
            file.write(word + "\n")

    @property
    def words(self) -> list[str]:
        return self._path.read_text().split() if self._path.exists() else []

    async def until(self, word: str) -> None:
        async with asyncio.timeout(SECONDS):
            while word not in self.words:
                await asyncio.sleep(0.001)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    made = Witness(tmp_path / "words")
    yield made
    made.may_leave.set()


ENDS = {"return": "success", "error": "error", "stop": "stopped"}


async def end(how: str, run: Started, tools: Tools) -> str:
    if how == "error":
        raise ValueError("no")
    if how == "stop":
        run.stop()
        await tools.data_store.get("x")
    return "done"


@pytest.mark.parametrize("how", ENDS)
async def test_a_job_in_a_thread_is_waited_for(how: str, witness: Witness) -> None:
    async def work(tools: Tools) -> str:
        job = asyncio.create_task(asyncio.to_thread(witness.watch))
        await witness.until("begun")
        job.cancel()  # its task leaves, and the thread does not
        return await end(how, run, tools)

    run = Started(work)
    await within(SECONDS, witness.until("begun"))
    (label,) = await in_flight(run, "thread")
    assert label.startswith("Witness.watch (test_waiting.py:")
    await turns(50)
    assert not run.ending.done()
    witness.may_leave.set()
    assert (await run.outcome()).kind == ENDS[how]
    assert witness.words == ["begun", "left"]


async def test_a_job_that_returns_before_the_function_delays_nothing(witness: Witness) -> None:
    async def work(tools: Tools) -> str:
        witness.may_leave.set()
        await asyncio.to_thread(witness.watch)
        return "done"

    assert await Started(work).outcome() == Outcome("success", result="done")


@pytest.mark.parametrize("how", ENDS)
async def test_a_process_is_waited_for(how: str, tmp_path: Path) -> None:
    script = "echo begun > words; while [ ! -e go-on ]; do sleep 0.01; done; echo left >> words"
    words = Witness(tmp_path / "words")

    async def work(tools: Tools) -> str:
        start = asyncio.create_subprocess_shell if how == "stop" else asyncio.create_subprocess_exec
        argv = [script] if how == "stop" else ["/bin/sh", "-c", script]
        kept.append(await start(*argv, cwd=tmp_path))
        await words.until("begun")
        return await end(how, run, tools)

    kept: list[Any] = []
    run = Started(work)
    await within(SECONDS, words.until("begun"))
    assert await in_flight(run, "process") == ["a shell" if how == "stop" else "sh"]
    await turns(50)
    assert not run.ending.done()
    (tmp_path / "go-on").touch()
    assert (await run.outcome()).kind == ENDS[how]
    assert words.words == ["begun", "left"]


async def test_a_process_that_can_not_be_started_is_not_waited_for() -> None:
    async def work(tools: Tools) -> None:
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/no/such/program")

    assert (await Started(work).outcome()).kind == "success"


async def test_a_protocol_hears_all_of_its_process() -> None:
    heard: list[Any] = []

    class Protocol(asyncio.SubprocessProtocol):
        def connection_made(self, transport: Any) -> None:
            heard.append("made")

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            heard.append(data)

        def process_exited(self) -> None:
            heard.append("exited")
            exited.set()

    async def work(tools: Tools) -> bool:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Protocol, "printf", "hello", stdin=None)
        await exited.wait()
        transport.close()
        return type(protocol) is Protocol

    exited = asyncio.Event()
    assert (await Started(work).outcome()).result is True
    assert sorted(map(str, heard)) == ["b'hello'", "exited", "made"]


async def test_a_thread_that_calls_tools_after_the_stop_is_stopped(witness: Witness) -> None:
    async def work(tools: Tools) -> None:
        loop = asyncio.get_running_loop()

        def call() -> None:
            witness.watch()
            try:
                asyncio.run_coroutine_threadsafe(tools.data_store.get("x"), loop).result(SECONDS)
            except BaseException as error:
                witness.say(type(error).__name__)

        job = asyncio.create_task(asyncio.to_thread(call))
        await witness.until("begun")
        job.cancel()
        run.stop()
        await tools.data_store.get("x")

    run = Started(work)
    await in_flight(run, "thread")
    async with asyncio.timeout(SECONDS):
        while not run.guard.token.stopped:
            await asyncio.sleep(0.001)
    await turns(50)
    witness.may_leave.set()
    assert (await run.outcome()).kind == "stopped"
    assert witness.words == ["begun", "left", "AgentStopped"]
    assert run.guard.calls_started_after_acknowledgement == 0


@pytest.mark.parametrize("meets_it", [True, False])
async def test_the_thread_of_a_def_agent_is_shown_once_a_stop_was_requested(
    witness: Witness, meets_it: bool
) -> None:
    def work(tools: SyncTools) -> str:
        witness.watch()
        if meets_it:
            tools.data_store.get("x")
        return "done"

    run = Started(work)
    await within(SECONDS, witness.until("begun"))
    assert run.trace.in_flight() == []
    run.stop()
    (label,) = await in_flight(run, "thread")
    assert label.startswith("work (test_waiting.py:") or ".work (" in label
    witness.may_leave.set()
    assert (await run.outcome()).kind == ("stopped" if meets_it else "success")
    assert witness.words == ["begun", "left"]


@pytest.mark.parametrize("what", ["thread", "def", "task", "generator"])
async def test_the_code_of_an_abandoned_run_finds_it_over_and_is_waited_for(
    what: str, witness: Witness
) -> None:
    async def work(tools: Tools) -> None:
        tools_of.append(tools)
        match what:
            case "thread":
                job = asyncio.create_task(asyncio.to_thread(witness.watch))
                await witness.until("begun")
                job.cancel()
            case "task":
                kept.append(asyncio.create_task(stubborn()))
                await asyncio.sleep(0)
            case _:
                kept.append(numbers := endless())
                await anext(numbers)
        run.stop()
        await tools.data_store.get("x")

    def def_work(tools: SyncTools) -> None:
        witness.watch()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async def endless() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await stubborn()

    let_go = asyncio.Event()
    kept: list[Any] = []
    tools_of: list[Tools] = []
    run = Started(def_work if what == "def" else work)
    if what == "def":
        await within(SECONDS, witness.until("begun"))
        run.stop()
    await in_flight(run, "task" if what in ("task", "generator") else "thread")
    async with asyncio.timeout(SECONDS):
        while what != "def" and not run.events("stop_observed"):
            await asyncio.sleep(0.001)
    await turns(50)
    assert not run.ending.done()
    await asyncio.to_thread(run.stop, "abandon")
    await turns(50)
    assert not run.ending.done(), "it takes room in its worker until it has left"
    assert "left" not in witness.words
    for tools in tools_of:
        with pytest.raises(RunIsOver):
            await tools.data_store.get("x")
    let_go.set()
    witness.may_leave.set()
    await within(SECONDS, run.ending)
    async with asyncio.timeout(SECONDS):
        while run.guard.in_flight.has_work() or run.guard.tasks or run.guard.closings:
            await asyncio.sleep(0.001)
    assert run.trace.in_flight() == []


async def test_code_of_the_run_can_not_cut_the_wait_for_its_own_end(witness: Witness) -> None:
    async def work(tools: Tools) -> str:
        job = asyncio.create_task(asyncio.to_thread(witness.watch))
        await witness.until("begun")
        job.cancel()
        main = asyncio.current_task()
        assert main is not None
        asyncio.get_running_loop().call_later(0.01, cut, main)
        return "done"

    def cut(main: asyncio.Task[Any]) -> None:
        main.cancel()
        was_cut.set()

    was_cut = asyncio.Event()
    run = Started(work)
    await within(SECONDS, was_cut.wait())
    await turns(20)
    assert not run.ending.done()
    witness.may_leave.set()
    assert await run.outcome() == Outcome("success", result="done")
    assert witness.words == ["begun", "left"]


async def test_a_run_can_not_cancel_the_tasks_of_others() -> None:
    async def patient(tools: Tools) -> str:
        await go_on.wait()
        return "done"

    async def destroyer(tools: Tools) -> list[bool]:
        mine = asyncio.create_task(asyncio.Event().wait())
        return [
            task.cancel() for task in asyncio.all_tasks() if task is not asyncio.current_task()
        ] + [mine in (await asyncio.wait([mine]))[0]]

    go_on = asyncio.Event()
    host = asyncio.create_task(go_on.wait())
    others = [Started(patient) for _ in range(3)]
    await turns()
    first = Started(destroyer)
    outcome = await first.outcome()
    assert outcome.result.count(True) == 2, "its own task was cancelled, and is over"
    assert "not its own" in first.only("log")["message"]
    go_on.set()
    assert [(await other.outcome()).result for other in others] == ["done"] * 3
    assert await host
    assert all(other.events("log") == [] for other in others)


async def test_a_run_may_cancel_what_belongs_to_a_run_that_it_has_called() -> None:
    parent, steps = Started(lambda tools: None), list[str]()

    async def child_work(tools: Tools) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cancelled")

    child = Started(child_work, parent=parent)
    await turns()
    assert parent.call(child.ending.cancel)
    assert (await child.outcome()).kind == "error"
    assert steps == ["cancelled"]


@pytest.mark.parametrize("way", ["gather", "TaskGroup", "timeout", "wait_for", "anyio"])
async def test_a_runs_own_ways_of_cancelling_work(way: str) -> None:
    cut: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut.append("cut")
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def work(tools: Tools) -> None:
        match way:
            case "gather":
                both = asyncio.gather(wait(), wait())
                await asyncio.sleep(0)
                both.cancel()
                await both
            case "TaskGroup":
                async with asyncio.TaskGroup() as group:
                    group.create_task(wait())
                    group.create_task(wait())
                    group.create_task(fail())
            case "timeout":
                async with asyncio.timeout(0.1):  # both are to begin before
                    await asyncio.gather(wait(), wait())
            case "wait_for":
                await asyncio.wait_for(asyncio.gather(wait(), wait()), 0.1)
            case "anyio":
                import anyio

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    tasks.start_soon(wait)
                    await asyncio.sleep(0.001)
                    tasks.cancel_scope.cancel()

    run = Started(work)
    await run.outcome()
    assert cut == ["cut", "cut"]
    assert run.events("log") == []


async def test_a_stop_that_reaches_a_def_agent_late_is_no_stop(witness: Witness) -> None:
    """The other order: the thread is over before the stop comes."""

    def work(tools: SyncTools) -> str:
        witness.may_leave.set()
        witness.watch()
        return "done"

    run = Started(work)
    outcome = await run.outcome()
    run.stop()
    assert outcome == Outcome("success", result="done")
    assert run.trace.in_flight() == []
