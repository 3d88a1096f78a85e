"""Callers whose database is away, or whose worker was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from agents import Tools, agent
from runs.actions import starting, stopping
from runs.db import transactions
from runs.models import WorkerRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start


class TestDatabaseOutage:
    """For a moment, for which agents wait."""

    @pytest.fixture
    def outage(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
        """Fail some calls that start and stop runs; the list has them."""

        def break_off(service: str, when: str = "before", times: int = 2) -> list[str]:
            module = stopping if hasattr(stopping, service) else starting
            original = getattr(module, service)
            broken: list[str] = []

            def breaking(*arguments: Any, **options: Any) -> Any:
                if len(broken) == times:
                    return original(*arguments, **options)
                broken.append(service)
                if when == "after":
                    original(*arguments, **options)
                raise OperationalError("the connection is broken")

            monkeypatch.setattr(module, service, breaking)
            return broken

        monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.01)
        return break_off

    @pytest.mark.parametrize("tool", ["call", "start"])
    def test_a_call_of_another_agent_waits_for_the_database(
        self, tool: str, worker: Worker, start: Start, log: Journal, outage: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> int:
            if tool == "call":
                return int(await tools.agents.call("double", {"n": 4}))
            return int(await (await tools.agents.start("double", {"n": 4})))

        broken = outage("_new_child")
        run = start("caller")
        assert log.over(run).result == 8
        assert len(broken) == 2
        assert assert_consistent(run).children.count() == 1

    def test_a_stop_does_not_wait_for_the_database(
        self, worker: Worker, start: Start, stop: Any, log: Journal, outage: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.call("double", {"n": 4})

        broken = outage("_new_child", times=10**9)
        run = start("caller")
        eventually(lambda: len(broken) > 0, "the call has failed")
        stop(run)
        assert log.over(run).status == Status.STOPPED
        assert not assert_consistent(run).children.exists()

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_an_unawaited_child_gets_its_stop_request_all_the_same(
        self, when: str, worker: Worker, start: Start, log: Journal, outage: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            await tools.agents.start("endless")
            return "done"

        broken = outage("request_stop", when)
        run = start("caller")
        record = log.over(run)
        assert (record.status, record.result) == (Status.SUCCESS, "done")
        assert broken
        assert assert_consistent(run).children.get().status == Status.STOPPED

    def test_an_abandoned_called_agent_gets_its_stop_request_all_the_same(
        self, worker: Worker, start: Start, log: Journal, outage: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await tools.agents.call("endless")
            return "continued"

        broken = outage("request_stop")
        run = start("caller")
        assert log.over(run).result == "continued"
        assert len(broken) == 2
        assert assert_consistent(run).children.get().status == Status.STOPPED


def test_no_child_is_started_below_a_run_whose_worker_was_lost(
    worker: Worker, start: Start, log: Journal, gate: Gate
) -> None:
    @agent("caller")
    async def caller(tools: Tools, way: str) -> None:
        await gate.wait()
        if way == "start":
            await tools.agents.start("double", {"n": 1})
        else:
            await tools.agents.call("double", {"n": 1})

    runs = [start("caller", way=way) for way in ("start", "call")]
    gate.until_arrived(2)
    WorkerRecord.objects.filter(pk=worker.id).update(lost_at=timezone.now())
    gate.open()
    for run in runs:
        log.until_over(run)
        assert not run.children.exists()
