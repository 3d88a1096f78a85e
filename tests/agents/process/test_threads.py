"""The threads of one run, and what a host does around agent code."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from agents.process import threads
from agents.process.loop import AgentLoop
from agents.process.threads import RunThread, agent_code, waiting
from tests.support.agent_run import AgentRun

SECONDS = 10.0


class Notes:
    """A host that notes what it hears, with the thread."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    @contextmanager
    def around(self) -> Iterator[None]:
        self._note("enter")
        try:
            yield
        finally:
            self._note("leave")

    def waiting(self) -> None:
        self._note("wait")

    def _note(self, what: str) -> None:
        self.heard.append((what, threading.current_thread().name))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Notes:
    notes = Notes()
    monkeypatch.setattr(threads, "_host", notes)
    return notes


def test_a_host_hears_of_the_outermost_piece_of_code_only(host: Notes) -> None:
    def work() -> None:
        with agent_code(), agent_code(), waiting():
            pass

    AgentRun().call(work)
    assert [what for what, _ in host.heard] == ["enter", "wait", "leave"]


def test_a_host_hears_nothing_of_code_outside_of_runs(host: Notes) -> None:
    with agent_code(), waiting():
        pass
    assert host.heard == []


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError]
)
def test_a_host_hears_of_each_way_out(host: Notes, error: type[BaseException]) -> None:
    def work() -> None:
        with agent_code():
            raise error

    with pytest.raises(error):
        AgentRun().call(work)
    assert [what for what, _ in host.heard] == ["enter", "leave"]


def test_each_job_of_the_loop_is_agent_code_in_the_runs_context(host: Notes) -> None:
    run = AgentRun()
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="outside")

    async def work() -> list[str]:
        place.set("inside")
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as own:
            return [
                await asyncio.to_thread(place.get),
                await loop.run_in_executor(None, place.get),
                await loop.run_in_executor(own, place.get),
            ]

    with asyncio.Runner(loop_factory=AgentLoop) as runner:
        assert runner.run(work(), context=run.context) == ["inside"] * 3
        assert runner.run(asyncio.to_thread(place.get)) == "outside"
    assert [what for what, _ in host.heard] == ["enter", "leave"] * 3


def test_a_runs_thread_does_its_jobs_in_order_and_waits_between_them(host: Notes) -> None:
    run, done = AgentRun(), list[int]()

    async def work() -> None:
        thread = RunThread("of-the-run")
        for number in range(3):
            thread.submit(done.append, number)
        await thread.aclose()

    asyncio.run(_in(run, work()))
    assert done == [0, 1, 2]
    assert host.heard == [
        (what, "of-the-run") for what in ("enter", "wait", "wait", "wait", "wait", "leave")
    ]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_error_of_a_job_is_its_callers_and_the_thread_goes_on(
    error: type[BaseException],
) -> None:
    def fail() -> None:
        raise error("no")

    thread = RunThread("of-the-run")
    failed, next_one = thread.submit(fail), thread.submit(lambda: "done")
    with pytest.raises(error):
        failed.result(SECONDS)
    assert next_one.result(SECONDS) == "done"
    thread.shutdown()


def test_a_thread_that_was_closed_takes_no_job() -> None:
    thread = RunThread("of-the-run")
    thread.shutdown()
    with pytest.raises(RuntimeError, match="this run is over"):
        thread.submit(len, "")


async def test_a_job_that_does_not_end_is_left_behind() -> None:
    may_end, thread = threading.Event(), RunThread("of-the-run")
    job = thread.submit(may_end.wait, SECONDS)
    await thread.aclose(seconds=0.01)
    assert not job.done()
    may_end.set()
    assert await asyncio.wrap_future(job)


async def _in(run: AgentRun, work: object) -> None:
    await run.task(work)  # type: ignore[arg-type]
