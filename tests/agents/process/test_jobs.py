"""The jobs of runs in threads: their order, their bounds, and what one owner's do to another's."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from agents.process import daemons
from agents.process.jobs import Jobs
from agents.process.labels import label_of
from agents.process.loop import AgentLoop
from tests.support.agent_run import AgentRun

SECONDS = 10.0


class Doors:
    """Jobs that a test lets go one by one; each is counted when it has begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._open: set[str] = set()

    def job(self, name: str) -> str:
        with self._changed:
            self.begun.append(name)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._open & {name, "all"}, SECONDS)
        return name

    def open(self, name: str = "all") -> None:
        with self._changed:
            self._open.add(name)
            self._changed.notify_all()

    def until_begun(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, SECONDS)


@pytest.fixture
def doors() -> Iterator[Doors]:
    made = Doors()
    yield made
    made.open()


def run_of(owner: str) -> AgentRun:
    run = AgentRun()
    run.guard.owner = owner
    return run


def submit(jobs: Jobs, run: AgentRun, doors: Doors, name: str) -> Future[Any]:
    return jobs.submit(run.guard, name, functools.partial(doors.job, name))


def labels(run: AgentRun) -> list[str]:
    return [call["label"] for call in run.trace.in_flight()]


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2_000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("this has not come")


def test_a_run_has_few_threads_and_its_other_jobs_wait_in_order(doors: Doors) -> None:
    jobs, run = Jobs(most=10, per_run=2), run_of("alice")
    futures = [submit(jobs, run, doors, name) for name in "abcd"]
    doors.until_begun(2)
    assert labels(run) == ["a", "b", "c, waits for a thread", "d, waits for a thread"]
    doors.open("b")
    doors.until_begun(3)
    assert doors.begun[2] == "c"
    doors.open()
    assert [future.result(SECONDS) for future in futures] == list("abcd")
    until(lambda: labels(run) == [])


def test_the_process_has_a_bound_that_holds_for_owners_who_have_a_thread(doors: Doors) -> None:
    jobs = Jobs(most=2, per_run=10)
    first, second, other = run_of("alice"), run_of("alice"), run_of("bob")
    for name in "ab":
        submit(jobs, first, doors, name)
    waiting = submit(jobs, second, doors, "c")
    assert labels(second) == ["c, waits for a thread"]
    doors.open("x")
    beyond = submit(jobs, other, doors, "x")
    assert beyond.result(SECONDS) == "x"
    assert not waiting.done()
    submit(jobs, other, doors, "y")
    doors.until_begun(4)
    submit(jobs, other, doors, "z")  # it has one now
    assert labels(other)[-1] == "z, waits for a thread"
    doors.open()
    assert waiting.result(SECONDS) == "c"


def test_runs_that_wait_take_turns(doors: Doors) -> None:
    jobs = Jobs(most=1, per_run=10)
    first, second = run_of("alice"), run_of("alice")
    submit(jobs, first, doors, "a")
    doors.until_begun(1)
    for run, names in ((first, "bc"), (second, "xy")):
        for name in names:
            submit(jobs, run, doors, name)
    doors.open()
    doors.until_begun(5)
    assert doors.begun == ["a", "b", "x", "c", "y"]


def test_a_job_that_was_cancelled_while_it_waited_never_begins(doors: Doors) -> None:
    jobs, run = Jobs(most=10, per_run=1), run_of("alice")
    submit(jobs, run, doors, "a")
    doors.until_begun(1)
    cancelled, later = (submit(jobs, run, doors, name) for name in "bc")
    assert cancelled.cancel()
    assert labels(run) == ["a", "c, waits for a thread"]
    doors.open()
    assert later.result(SECONDS) == "c"
    assert doors.begun == ["a", "c"]
    until(lambda: not run.guard.in_flight.has_work())


def test_a_cancellation_that_comes_when_the_job_has_begun_changes_nothing(doors: Doors) -> None:
    jobs, run = Jobs(most=10, per_run=1), run_of("alice")
    submit(jobs, run, doors, "a")
    second = submit(jobs, run, doors, "b")
    doors.open("a")
    doors.until_begun(2)
    assert not second.cancel()
    assert run.guard.in_flight.has_work()
    doors.open()
    assert second.result(SECONDS) == "b"


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_error_of_a_job_is_its_callers_and_the_thread_takes_the_next(
    error: type[BaseException],
) -> None:
    def fail() -> None:
        raise error("no")

    jobs, run = Jobs(per_run=1), run_of("alice")
    failed = jobs.submit(run.guard, "fails", fail)
    assert jobs.submit(run.guard, "works", lambda: "done").result(SECONDS) == "done"
    with pytest.raises(error):
        failed.result(SECONDS)


def test_a_job_that_gets_no_thread_fails_and_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    jobs, run = Jobs(per_run=1), run_of("alice")
    with monkeypatch.context() as patch:
        patch.setattr(daemons.threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            jobs.submit(run.guard, "a", lambda: None)
    assert labels(run) == []
    assert jobs.submit(run.guard, "b", lambda: "done").result(SECONDS) == "done"


def test_threads_are_used_again_and_end_when_they_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "IDLE_SECONDS", 0.05)
    threads: set[threading.Thread] = set()
    jobs, run = Jobs(), run_of("alice")
    for _ in range(3):
        jobs.submit(run.guard, "a", lambda: threads.add(threading.current_thread())).result(SECONDS)
        until(lambda: bool(jobs._threads._idle))
    (thread,) = threads
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert thread.daemon
    assert jobs.submit(run.guard, "b", lambda: "done").result(SECONDS) == "done"


def in_a_run(run: AgentRun, work: Callable[[], Any], jobs: Jobs | None = None) -> Any:
    with asyncio.Runner(loop_factory=lambda: AgentLoop(jobs)) as runner:
        return runner.run(work(), context=run.context)


@pytest.mark.parametrize("kind", ["to_thread", "none", "pool"])
def test_a_job_is_known_work_until_it_has_returned_though_its_task_was_cancelled(
    kind: str, doors: Doors
) -> None:
    run = AgentRun()

    async def work() -> list[str]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            match kind:
                case "to_thread":
                    job: Any = asyncio.create_task(asyncio.to_thread(doors.job, "a"))
                case "none":
                    job = loop.run_in_executor(None, doors.job, "a")
                case _:
                    job = loop.run_in_executor(pool, doors.job, "a")
            while not doors.begun:
                await asyncio.sleep(0.001)
            job.cancel()
            await asyncio.wait([job])
            seen = labels(run)
            doors.open()
            await run.guard.in_flight.until(lambda: not run.guard.in_flight.has_work())
            return seen

    (label,) = in_a_run(run, work)
    assert label.startswith("Doors.job (test_jobs.py:")
    assert labels(run) == []


def test_a_job_that_waits_for_another_job_of_its_run_gets_it() -> None:
    async def work() -> str:
        loop = asyncio.get_running_loop()

        def outer() -> str:
            return asyncio.run_coroutine_threadsafe(
                asyncio.to_thread(lambda: "inner"), loop
            ).result(SECONDS)

        return await asyncio.to_thread(outer)

    assert in_a_run(AgentRun(), work) == "inner"


def test_a_pool_of_processes_takes_a_job_which_is_known_work() -> None:
    run = AgentRun()

    async def work() -> int:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return await asyncio.get_running_loop().run_in_executor(pool, abs, -3)

    assert in_a_run(run, work) == 3
    assert run.sink.activities
    assert not run.guard.in_flight.has_work()


@pytest.mark.parametrize(("what", "label"), [
    (functools.partial(len), "len"),
    (functools.partial(AgentRun().context.run, run_of, "x"), "run_of (test_jobs.py:"),
    (Doors, "Doors"),
])  # fmt: skip
def test_a_label_names_the_function_and_no_path(what: Any, label: str) -> None:
    assert label_of(what).startswith(label) or label_of(what).endswith(label)
    assert "/" not in label_of(what)
