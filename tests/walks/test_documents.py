"""Documents and addresses from users, in real runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from agents import SyncTools, Tools, agent
from agents.tools.confined import calls
from runs.models import RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.page_server import PageServer
from tests.support.pdfs import as_data_url, make_pdf, slow_pdf
from tests.support.processes_gone import is_running
from tests.support.running import Start

pytestmark = pytest.mark.usefixtures("alice")

SECONDS = 10.0


class Spawned:
    def __init__(self) -> None:
        self.pids: list[int] = []
        self._changed = threading.Condition()

    async def start(self, *args: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*args, **options)
        with self._changed:
            self.pids.append(process.pid)
            self._changed.notify_all()
        return process

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.pids) >= count, SECONDS)


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawned]:
    spawned = Spawned()
    monkeypatch.setattr(calls, "start_process", spawned.start)
    yield spawned
    assert not any(map(is_running, spawned.pids))


def test_a_stop_kills_the_process_that_reads_a_document(
    worker: Worker, start: Start, stop: Callable[..., Any], log: Journal, spawned: Spawned
) -> None:
    run = start("summarise", document=as_data_url(slow_pdf()))
    spawned.wait_for(1)

    stop(run)

    record = log.over(run)
    assert record.status == Status.STOPPED
    assert not is_running(spawned.pids[0])
    assert record.llm_calls == 0
    assert_consistent(record)


def test_one_owner_s_documents_do_not_delay_another_owner_s_run(
    worker: Worker,
    start: Start,
    stop: Callable[..., Any],
    log: Journal,
    spawned: Spawned,
    alice: User,
    bob: User,
) -> None:
    bombs = [start("summarise", document=as_data_url(slow_pdf()), owner=alice) for _ in range(6)]
    spawned.wait_for(calls.PROCESSES.per_owner)

    mine = start("summarise", document=as_data_url(make_pdf("Mine.")), owner=bob)

    assert log.over(mine).status == Status.SUCCESS
    assert len(spawned.pids) == calls.PROCESSES.per_owner + 1
    assert not RunRecord.objects.filter(pk__in=[b.pk for b in bombs], finished_at__isnull=False)
    for run in bombs:
        stop(run)
    assert {log.over(run).status for run in bombs} == {Status.STOPPED}


def test_agents_reach_what_the_settings_allow(
    options: Callable[..., None],
    hire: Callable[..., Worker],
    start: Start,
    log: Journal,
) -> None:
    @agent("reader")
    async def reader(tools: Tools, url: str) -> str:
        return (await tools.http.get(url)).text

    @agent("reader-in-thread")
    def reader_in_thread(tools: SyncTools, url: str) -> str:
        return tools.http.get(url).text

    options(HTTP={"ALLOW": ["127.0.0.5"]})
    hire()
    page = {"/": ({"Content-Type": "text/plain"}, b"Stop means stop.")}
    with PageServer(page, "127.0.0.5") as allowed, PageServer(page) as inside:
        for name in ("reader", "reader-in-thread"):
            assert log.over(start(name, url=allowed.url)).result == "Stop means stop."
            record = log.over(start(name, url=inside.url))
            assert record.error["code"] == "address_refused"
        assert log.over(start("summarise", document=allowed.url)).status == Status.SUCCESS
        record = log.over(start("summarise", document=inside.url))
        assert record.error["code"] == "address_refused"
        assert inside.requests == []

        record = log.over(start("reader", url="http://example.org:99999/"))
        assert record.error["code"] == "invalid_address"
