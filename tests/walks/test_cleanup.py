"""Code in an agent's ``finally`` completes before its run ends."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx
import pytest

from agents import AgentStopped, SyncTools, Tools, agent, cleanup
from runs.models import DataStoreEntry, RunRecord
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.llm_server import LLMServer
from tests.support.running import Start

pytestmark = pytest.mark.usefixtures("worker")


def test_a_client_is_closed_before_the_run_reads_stopped(
    llm_server: LLMServer, start: Start, stop: Any, log: Journal
) -> None:
    status_at_close: list[str] = []
    client: list[httpx.AsyncClient] = []

    @agent("fetcher")
    async def fetcher(tools: Tools, run: str = "") -> None:
        http_client = httpx.AsyncClient(trust_env=False)
        client.append(http_client)
        try:
            await http_client.get(f"{llm_server.url}/hello")
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)
        finally:
            await asyncio.to_thread(look)
            await http_client.aclose()

    def look() -> None:
        from django.db import connection

        status_at_close.append(RunRecord.objects.get(agent="fetcher").status)
        connection.close()

    run = start("fetcher")
    log.until_event(run, "log", message="at work")
    assert llm_server.open_count == 1
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert client[0].is_closed
    assert status_at_close == [Status.RUNNING]
    llm_server.wait(lambda: llm_server.open_count == 0, "the connection to be closed")
    assert_consistent(run)


@pytest.mark.parametrize("kind", ["async", "def"])
def test_saving_works_inside_cleanup_and_is_refused_outside(
    kind: str, start: Start, stop: Any, log: Journal
) -> None:
    refused: list[str] = []

    @agent("saver-async")
    async def saver_async(tools: Tools) -> None:
        try:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)
        finally:
            async with cleanup(seconds=5):
                await tools.data_store.set("inside", "half a summary")
            try:
                await tools.data_store.set("outside", "no")
            except AgentStopped:
                refused.append("outside")

    @agent("saver-def")
    def saver_def(tools: SyncTools) -> None:
        try:
            tools.log("at work")
            while True:
                tools.data_store.get("x")
        finally:
            with cleanup(seconds=5):
                tools.data_store.set("inside", "half a summary")
            try:
                tools.data_store.set("outside", "no")
            except AgentStopped:
                refused.append("outside")

    run = start(f"saver-{kind}")
    log.until_event(run, "log", message="at work")
    stop(run)
    record = log.over(run)
    assert record.status == Status.STOPPED
    assert record.stop_cleanup_error is None
    assert refused == ["outside"]
    assert list(DataStoreEntry.objects.values_list("key", "value")) == [
        ("inside", "half a summary")
    ]
    (saved,) = [e for e in log.of(run, "data_store") if e.data["tool"] == "data_store.set"]
    assert saved.data["cleanup"] is True
    assert saved.data["outcome"] == "ok"
    assert record.stop_calls_started_after_acknowledgement == 0
    assert_consistent(run)


def test_cleanup_that_takes_too_long_is_cut_at_its_limit(
    start: Start, stop: Any, log: Journal
) -> None:
    reached: list[str] = []

    @agent("hanging")
    async def hanging(tools: Tools) -> None:
        try:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)
        finally:
            async with cleanup(seconds=0.2):
                await tools.data_store.set("first", 1)
                await asyncio.Event().wait()  # for ever
                reached.append("never")

    run = start("hanging")
    log.until_event(run, "log", message="at work")
    asked = time.monotonic()
    stop(run)
    record = log.over(run)
    assert 0.2 <= time.monotonic() - asked < 5
    assert record.status == Status.STOPPED
    assert reached == []
    assert DataStoreEntry.objects.filter(key="first").exists()
    assert_consistent(run)


def test_saving_after_the_end_of_a_cleanup_is_refused(
    start: Start, stop: Any, log: Journal
) -> None:
    @agent("late-saver")
    def late_saver(tools: SyncTools) -> None:
        try:
            tools.log("at work")
            while True:
                tools.data_store.get("x")
        finally:
            with cleanup(seconds=0.05):
                tools.data_store.set("early", 1)
                threading.Event().wait(0.1)  # a thread can't be cut; its calls are refused
                tools.data_store.set("late", 1)

    run = start("late-saver")
    log.until_event(run, "log", message="at work")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert list(DataStoreEntry.objects.values_list("key", flat=True)) == ["early"]
    assert_consistent(run)


def test_an_error_in_cleanup_is_kept_with_the_stop(start: Start, stop: Any, log: Journal) -> None:
    @agent("clumsy")
    async def clumsy(tools: Tools) -> None:
        try:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)
        finally:
            raise OSError("the disk is full")

    run = start("clumsy")
    log.until_event(run, "log", message="at work")
    stop(run)
    record = log.over(run)
    assert (record.status, record.error) == (Status.STOPPED, None)
    assert record.stop_cleanup_error == {"type": "OSError", "message": "the disk is full"}
    assert log.of(run, "error")[0].data["type"] == "OSError"
    assert_consistent(run)


def test_a_value_returned_after_the_stop_is_kept_as_the_partial_result(
    start: Start, stop: Any, log: Journal
) -> None:
    @agent("halfway")
    async def halfway(tools: Tools) -> list[int]:
        done: list[int] = []
        try:
            tools.log("at work")
            while True:
                done.append(await tools.data_store.get("x", 1))
                await asyncio.sleep(0.002)
        except AgentStopped:
            return done[:1]

    run = start("halfway")
    log.until_event(run, "log", message="at work")
    stop(run)
    record = log.over(run)
    assert record.status == Status.STOPPED
    assert (record.result, record.partial_result) == (None, [1])
    assert_consistent(run)


def test_all_children_may_clean_up_before_their_caller_ends(
    start: Start, stop: Any, log: Journal
) -> None:
    @agent("child")
    async def child(tools: Tools, n: int) -> None:
        try:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)
        finally:
            async with cleanup():
                await asyncio.sleep(0.02 * n)
                await tools.data_store.set(f"saved {n}", n)

    @agent("caller")
    async def caller(tools: Tools) -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(tools.agents.call("child", {"n": n}))

    run = start("caller")
    log.until(lambda: sum(e.data.get("message") == "at work" for e in log.events) == 4, "children")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    saved = DataStoreEntry.objects.filter(key__startswith="saved")
    assert sorted(saved.values_list("value", flat=True)) == [0, 1, 2, 3]
    assert log.order_of_ends()[-1] == "caller"
    assert_consistent(run)


def test_a_stop_during_a_cleanup_leaves_it_its_time(start: Start, stop: Any, log: Journal) -> None:
    """A stop during the cleanup at an agent's normal end does not cut it."""
    saving = threading.Event()
    may_continue = threading.Event()

    @agent("tidy")
    async def tidy(tools: Tools) -> str:
        async with cleanup(seconds=5):
            saving.set()
            await asyncio.to_thread(may_continue.wait, 10)
            await tools.data_store.set("saved", 1)
        return "done"

    run = start("tidy")
    assert saving.wait(10)
    stop(run)
    may_continue.set()
    record = log.over(run)
    # No guard refused and no code asked should_stop(): the run finished first.
    assert (record.status, record.result) == (Status.SUCCESS, "done")
    assert record.stop_finished_first
    eventually(lambda: DataStoreEntry.objects.filter(key="saved").exists(), "it is saved")
    assert_consistent(run)
