"""Many runs at once."""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from agents import output
from tests.support.agent_run import AgentRun, within
from tests.support.captured_output import SECONDS, captured, logger, printed

RUNS = 50
LINES = 20


def _write_line(name: int, number: int) -> None:
    """Print one line, each time in another way."""
    mark = f"{name}.{number}"
    match number % 5:
        case 0:
            print(mark)
        case 1:
            for piece in mark:
                print(piece, end="", flush=True)
            print()
        case 2:
            sys.stdout.write(mark + "\n")
        case 3:
            sys.stdout.writelines([mark[:2], mark[2:], "\n"])
        case 4:
            print(*mark, sep="")
    print(f"err {mark}", file=sys.stderr)
    logger.warning("log %s", mark)


def _check(run: AgentRun, name: int) -> None:
    marks = [f"{name}.{number}" for number in range(LINES)]
    assert printed(run) == marks
    assert printed(run, "stderr") == [f"err {mark}" for mark in marks]
    assert [data["message"] for data in run.events("log")] == [f"log {mark}" for mark in marks]


@captured
async def test_50_runs_that_print_at_once_on_one_loop_do_not_mix(
    outside: dict[str, io.StringIO],
) -> None:
    async def agent(name: int) -> None:
        for number in range(LINES):
            mark = f"{name}.{number}"
            for piece in (mark[:1], mark[1:]):
                print(piece, end="")
                await asyncio.sleep(0)  # in the middle of the line
            print()
            await asyncio.sleep(0)
            print(f"err {mark}", file=sys.stderr)
            logger.warning("log %s", mark)

    runs = [AgentRun() for _ in range(RUNS)]
    await within(SECONDS, asyncio.gather(*(run.task(agent(i)) for i, run in enumerate(runs))))
    for name, run in enumerate(runs):
        _check(run, name)
    assert {stream.getvalue() for stream in outside.values()} == {""}


@captured
def test_50_runs_that_print_at_once_in_threads_do_not_mix(
    outside: dict[str, io.StringIO],
) -> None:
    start = threading.Barrier(RUNS)

    def agent(name: int) -> None:
        start.wait(SECONDS)
        for number in range(LINES):
            _write_line(name, number)
            time.sleep(0)  # let another one in

    runs = [AgentRun() for _ in range(RUNS)]
    with ThreadPoolExecutor(RUNS) as pool:
        futures = [pool.submit(run.call, agent, name) for name, run in enumerate(runs)]
        for future in futures:
            future.result(SECONDS)
    for name, run in enumerate(runs):
        _check(run, name)
    assert {stream.getvalue() for stream in outside.values()} == {""}


@captured
def test_threads_of_one_run_do_not_cut_each_others_lines() -> None:
    for _ in range(20):
        run = AgentRun()
        start = threading.Barrier(4)

        def work(name: int, start: threading.Barrier = start) -> None:
            start.wait(SECONDS)
            for number in range(10):
                print(f"{name}", end="")
                time.sleep(0)
                print(f".{number}")

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(run.call, work, name) for name in range(4)]
            for future in futures:
                future.result(SECONDS)
        assert sorted(printed(run)) == sorted(f"{n}.{i}" for n in range(4) for i in range(10))


@captured
async def test_a_thread_that_a_run_starts_with_its_context_prints_into_its_log() -> None:
    run = AgentRun()

    async def agent() -> None:
        await asyncio.to_thread(print, "from a thread")

    await run.task(agent())
    assert printed(run) == ["from a thread"]


@captured
def test_what_a_finaliser_prints_while_a_line_is_taken_in_is_not_lost() -> None:
    """The garbage collector runs where garbage is made, under our own locks too."""
    run, other = AgentRun(), AgentRun()
    run.call(functools.partial(print, "unfinished", end=""))

    class Finalised:
        def __init__(self, run: AgentRun) -> None:
            self.run = run
            self.itself = self

        def __del__(self) -> None:
            self.run.call(functools.partial(print, " finalised", end=""))

    def collect_while_printing() -> None:
        Finalised(run)
        Finalised(other)
        with output._install_lock:
            gc.collect()

    gc.collect()
    thread = threading.Thread(target=collect_while_printing, daemon=True)
    thread.start()
    thread.join(SECONDS / 4)
    assert not thread.is_alive(), "the thread waits for a lock that it holds itself"
    assert sorted(printed(run)) == sorted(["unfinished", " finalised"])
    assert printed(other) == [" finalised"]


@captured
def test_what_is_printed_in_the_middle_of_a_write_is_not_lost() -> None:
    class Interrupted(str):
        __slots__ = ()

        def __radd__(self, before: str) -> str:  # as a finaliser comes in between two steps
            print("inner", end="")
            return before + str(self)

    run = AgentRun()
    run.call(lambda: sys.stdout.write(Interrupted("outer")))
    assert printed(run) == ["outerinner"]
