"""What an agent changes for the whole process is put right, and its own log says so."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import locale
import logging
import logging.config
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from agents import SyncTools, Tools, agent
from agents.process.state import shared
from agents.process.values import QUICK, read_quick
from runs.status import Status
from runs.worker import worker as worker_module
from runs.worker.worker import Worker
from tests.support.harms import HARMS, SEEN_AT_THE_END, nothing, umask
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start

SHARED = "which all runs of the process share"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Put the process right after a test that fails, for the tests after it."""
    right = [list(value) if isinstance(value, list) else value for value in read_quick()]
    folder, environment, mask, place = (
        *(os.getcwd(), dict(os.environ)),
        *(umask(), locale.setlocale(locale.LC_ALL)),
    )
    yield
    for put, value in zip(QUICK.values(), right, strict=True):
        put(value)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.umask(mask)
    locale.setlocale(locale.LC_ALL, place)


def notes(log: Journal, run: Any) -> list[str]:
    return [e.data["message"] for e in log.of(run, "log") if SHARED in e.data["message"]]


@pytest.mark.parametrize("kind", ["async", "def", "to_thread"])
def test_what_a_run_changes_is_named_in_its_log_and_put_right_for_the_next(
    kind: str, worker: Worker, start: Start, log: Journal
) -> None:
    gate = Gate()

    @agent("bender")
    async def bender(tools: Tools, harm: str) -> None:
        do = HARMS[harm][0]
        await (asyncio.to_thread(do) if kind == "to_thread" else asyncio.sleep(0))
        if kind == "async":
            do()

    @agent("bender-def")
    def bender_def(tools: SyncTools, harm: str) -> None:
        HARMS[harm][0]()

    seen: list[Any] = []

    @agent("looker")
    async def looker(tools: Tools, harm: str) -> None:
        seen.append(HARMS[harm][1]())

    @agent("bystander")
    async def bystander(tools: Tools) -> None:
        await gate.wait()
        logging.getLogger("an.agent").warning("heard")
        print("printed")

    for harm in HARMS:  # in one worker: one for each would take a minute
        gate.close()
        seen.clear()
        beside = start("bystander")
        gate.until_arrived()
        log.over(start("looker", harm=harm))
        bent = start("bender-def" if kind == "def" else "bender", harm=harm)
        assert log.over(bent).status == Status.SUCCESS, harm
        log.over(start("looker", harm=harm))
        gate.open()
        assert log.over(beside).status == Status.SUCCESS, harm

        assert seen[0] == seen[1], harm
        told = notes(log, bent)
        assert told, harm
        assert "secret-of-the-owner" not in str(told)
        assert "heard" in [e.data["message"] for e in log.of(beside, "log")], harm
        assert [e.data["text"] for e in log.of(beside, "stdout")] == ["printed"], harm
        if harm not in SEEN_AT_THE_END:
            assert notes(log, beside) == [], harm
            assert all(note.startswith("this run changed") for note in told), harm


def test_the_code_of_others_never_finds_what_a_coroutine_has_changed(
    worker: Worker, start: Start, log: Journal
) -> None:
    """Put right at its next await already: others run before it ends."""
    gate = Gate()

    @agent("bender")
    async def bender(tools: Tools) -> str:
        logging.disable()
        os.environ["OWNERS_KEY"] = "secret-of-the-owner"
        os.chdir("/")
        await gate.wait()
        return "done"

    @agent("other")
    async def other(tools: Tools) -> list[Any]:
        logging.getLogger("an.agent").warning("heard")
        return [os.environ.get("OWNERS_KEY"), os.getcwd()]

    before = os.getcwd()
    bent = start("bender")
    gate.until_arrived()
    beside = start("other")
    assert log.over(beside).result == [None, before]
    assert "heard" in str([e.data for e in log.of(beside, "log")])
    gate.open()
    log.over(bent)
    assert len(notes(log, bent)) == 3
    assert notes(log, beside) == []


@pytest.mark.parametrize("hook", ["trace", "profile"])
def test_a_debugger_sees_no_code_of_others(
    hook: str, worker: Worker, start: Start, log: Journal
) -> None:
    gate = Gate()
    get, put = getattr(sys, f"get{hook}"), getattr(sys, f"set{hook}")

    def debugger(*_: Any) -> None: ...

    @agent("bender")
    async def bender(tools: Tools) -> None:
        put(debugger)
        await gate.wait()

    @agent("other")
    async def other(tools: Tools) -> bool:
        return get() is debugger

    bent = start("bender")
    gate.until_arrived()
    beside = start("other")
    assert log.over(beside).result is False
    gate.open()
    log.over(bent)
    assert notes(log, bent)
    assert notes(log, beside) == []


def test_the_generators_of_others_are_closed_by_the_loop(
    worker: Worker, start: Start, log: Journal
) -> None:
    gate = Gate()
    seen: list[str] = []

    @agent("bender")
    async def bender(tools: Tools) -> None:
        sys.set_asyncgen_hooks(lambda _: seen.append("begun"), lambda _: seen.append("left"))
        await gate.wait()

    @agent("other")
    async def other(tools: Tools) -> bool:
        closed = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                closed.set()

        async for _ in numbers():
            break
        gc.collect()  # no code can reach it any more
        async with asyncio.timeout(5):
            await closed.wait()
        return True

    bent = start("bender")
    gate.until_arrived()
    beside = start("other")
    assert log.over(beside).result is True
    gate.open()
    log.over(bent)
    assert seen == []
    assert "the hooks of async generators" in str(notes(log, bent))
    assert notes(log, beside) == []


def test_a_change_that_two_threads_may_have_made_is_told_to_both_and_to_no_third(
    worker: Worker, start: Start, log: Journal
) -> None:
    first, second = Gate(), Gate()

    @agent("bender")
    def bender(tools: SyncTools) -> None:
        first.wait_here()
        socket.setdefaulttimeout(1)

    @agent("beside")
    def beside(tools: SyncTools) -> None:
        second.wait_here()

    @agent("coroutine")
    async def coroutine(tools: Tools) -> None:
        await second.wait()

    runs = [start(name) for name in ("bender", "beside", "coroutine")]
    first.until_arrived()
    second.until_arrived(2)
    eventually(lambda: shared._stepping is None, "the coroutine waits")
    first.open()
    log.over(runs[0])
    second.open()
    log.until_over(*runs)
    for run in runs[:2]:
        [told] = notes(log, run)
        assert told.startswith("this run, or another one at the same time, changed")
    assert notes(log, runs[2]) == []


def test_threads_that_wait_are_not_suspected(worker: Worker, start: Start, log: Journal) -> None:
    gate = Gate()

    @agent("holder")
    async def holder(tools: Tools) -> None:
        await gate.wait()

    @agent("waiter-def")
    def waiter_def(tools: SyncTools) -> None:
        tools.agents.call("holder")

    @agent("waiter")
    async def waiter(tools: Tools) -> None:
        await sync_to_async(len)("")  # its thread waits for the next job
        await gate.wait()

    @agent("bender")
    def bender(tools: SyncTools) -> None:
        socket.setdefaulttimeout(1)

    waiting = [start("waiter"), start("waiter-def")]
    gate.until_arrived(2)
    eventually(lambda: shared._stepping is None, "the coroutines wait")
    bent = start("bender")
    log.over(bent)
    gate.open()
    log.until_over(*waiting)
    [told] = notes(log, bent)
    assert told.startswith("this run changed")
    for run in waiting:
        assert notes(log, run) == []


def test_a_thread_that_lost_its_context_is_noticed_too(
    worker: Worker, start: Start, log: Journal
) -> None:
    @agent("threader")
    def threader(tools: SyncTools) -> None:
        thread = threading.Thread(target=os.chdir, args=("/",))
        thread.start()
        thread.join()

    before = os.getcwd()
    run = start("threader")
    log.over(run)
    [told] = notes(log, run)
    assert "the working directory" in told
    assert os.getcwd() == before


def test_what_is_put_back_by_the_code_itself_is_no_change(
    worker: Worker, start: Start, log: Journal
) -> None:
    @agent("tidy")
    async def tidy(tools: Tools) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
        with contextlib.chdir("/"), contextlib.redirect_stdout(io.StringIO()):
            print("x")
        await asyncio.sleep(0)

    run = start("tidy")
    log.over(run)
    assert notes(log, run) == []


def test_a_change_is_told_once_and_put_back_each_time(
    worker: Worker, start: Start, log: Journal
) -> None:
    @agent("again")
    async def again(tools: Tools) -> None:
        for _ in range(5):
            sys.setrecursionlimit(50_000)
            await asyncio.sleep(0)

    before = sys.getrecursionlimit()
    run = start("again")
    log.over(run)
    assert len(notes(log, run)) == 1
    assert sys.getrecursionlimit() == before


def test_what_the_host_changes_between_runs_stays(
    worker: Worker, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    @agent("looker")
    async def looker(tools: Tools) -> list[Any]:
        return [os.environ.get("OF_THE_HOST"), sys.getrecursionlimit()]

    log.over(start("looker"))
    eventually(lambda: not shared._runs, "the run has left")
    monkeypatch.setenv("OF_THE_HOST", "x")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 7)
    try:
        run = start("looker")
        assert log.over(run).result == ["x", before + 7]
        assert notes(log, run) == []
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("kind", ["async", "def"])
def test_no_agent_can_set_a_signal_handler(
    kind: str, worker: Worker, start: Start, log: Journal
) -> None:
    @agent("handler")
    async def handler(tools: Tools) -> None:
        signal.signal(signal.SIGTERM, nothing)

    @agent("handler-def")
    def handler_def(tools: SyncTools) -> None:
        signal.signal(signal.SIGTERM, nothing)

    before = signal.getsignal(signal.SIGTERM)
    record = log.over(start("handler" if kind == "async" else "handler-def"))
    assert record.error["type"] == "ValueError"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "harm",
    [
        lambda loop: loop.stop(),
        lambda loop: loop.set_task_factory(None),
        lambda loop: loop.set_exception_handler(nothing),
        lambda loop: loop.set_default_executor(None),
        lambda loop: loop.set_debug(True),
        lambda loop: loop.shutdown_default_executor(),
        lambda loop: loop.shutdown_asyncgens(),
    ],
)
def test_an_agent_cant_change_the_loop_that_all_share(
    harm: Callable[[Any], Any], worker: Worker, start: Start, log: Journal
) -> None:
    @agent("changer")
    async def changer(tools: Tools) -> None:
        done = harm(asyncio.get_running_loop())
        if done is not None:
            await done

    @agent("next")
    async def next_one(tools: Tools) -> int:
        return await asyncio.to_thread(random.Random(1).randint, 1, 1)

    record = log.over(start("changer"))
    assert record.error["type"] == "RuntimeError"
    assert "all agents share" in record.error["message"]
    assert log.over(start("next")).result == 1


def test_a_worker_that_leaves_a_blocked_loop_behind_leaves_the_process_as_it_was(
    hire: Any, start: Start, log: Journal, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is left running, and what a watch puts back then is no run's change."""
    for name in ("UNWIND_SECONDS", "CANCEL_SECONDS"):
        monkeypatch.setattr(worker_module, name, 0.1)
    options(DRAIN_SECONDS=0)
    before = (type(sys), sys.stdout, sys.stderr)
    gate = Gate()

    @agent("blocking")
    async def blocking(tools: Tools) -> None:
        gate.wait_here()

    @agent("plain")
    async def plain(tools: Tools) -> str:
        print("printed")
        return "done"

    worker = hire()
    start("blocking")
    gate.until_arrived()
    worker.stop_threads()
    try:
        shared.look_quickly()
        assert (type(sys), sys.stdout, sys.stderr) == before
        hire()
        run = start("plain")
        assert log.over(run).result == "done"
        assert [e.data["text"] for e in log.of(run, "stdout")] == ["printed"]
    finally:
        gate.open()
