"""Tasks, calls and responses that an agent leaves behind when its function is over."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agents import Tools, cleanup, output, runtime
from agents.runtime import Outcome
from tests.support.agent_run import within
from tests.support.started_run import SECONDS, SlowStore, Started, ended, in_flight, turns


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


async def test_calls_that_were_left_behind_are_cut_when_no_stop_was_requested() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        tasks.append(asyncio.create_task(tools.data_store.set("a", 1)))
        await store.writing.wait()

    tasks: list[asyncio.Task[None]] = []
    run = Started(work, store=store)
    assert (await run.outcome()).kind == "success"
    assert run.only("data_store")["outcome"] == "aborted"


@pytest.mark.parametrize("how", ["return", "error", "stop"])
async def test_a_task_that_ignores_its_cancellation_is_shown_and_waited_for(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "SHOWN_SECONDS", 0.001)
    let_go, last_words = asyncio.Event(), list[str]()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        last_words.append("the task has left")

    async def work(tools: Tools) -> str:
        tasks.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)
        if how == "error":
            raise ValueError("no")
        if how == "stop":
            run.stop()
            await tools.data_store.get("x")
        return "done"

    tasks: list[asyncio.Task[Any]] = []
    run = Started(work)
    await within(SECONDS, in_flight(run, "task"))
    (shown,) = run.trace.in_flight()
    assert shown["label"].startswith("stubborn (test_left_behind.py:")
    await turns(50)
    assert not run.ending.done()
    let_go.set()
    kind = {"return": "success", "error": "error", "stop": "stopped"}[how]
    assert (await run.outcome()).kind == kind
    assert last_words == ["the task has left"]


async def test_a_host_that_goes_away_leaves_a_task_that_ignores_its_cancellation_and_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "LEAVING_SECONDS", 0.01)
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
        await asyncio.wait([tasks[1]])  # and a response that no code reads, too
        await asyncio.Event().wait()

    request = httpx.Request("GET", "http://x")
    tasks: list[asyncio.Task[Any]] = []
    run = Started(work)
    await turns(20)
    run.host_goes_away()
    try:
        await within(SECONDS, asyncio.shield(run.ending))
        assert "stubborn" in run.only("log")["message"]
        assert [call["tool"] for call in run.trace.in_flight()] in ([], ["task"])
    finally:
        let_go.set()
    await within(SECONDS, tasks[0])


async def test_a_task_that_failed_unseen_complains_in_the_log_of_its_own_run() -> None:
    """The collector runs in whichever run makes garbage: that may be another owner's."""

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
async def test_a_response_that_no_code_reads_does_not_keep_the_run_from_ending(
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
