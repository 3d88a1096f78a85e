"""A stop, or a caller that gives up, while a child is being started: no child escapes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agents import (
    Tools,
    agent,
)
from runs.actions import starting
from runs.delivery import local_runs
from runs.models import RunRecord
from runs.status import Status
from runs.worker.agent_caller import GAVE_UP
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal
from tests.support.running import Start, in_thread

pytestmark = pytest.mark.usefixtures("worker")


@pytest.mark.parametrize("way", ["timeout", "cancelled task", "abandoned"])
def test_a_caller_that_gives_up_waiting_stops_its_child(
    way: str, start: Start, log: Journal
) -> None:
    @agent("slow")
    async def slow(tools: Tools) -> None:
        started.set()
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("impatient")
    async def impatient(tools: Tools) -> str:
        nonlocal started
        started = asyncio.Event()
        task = asyncio.create_task(tools.agents.call("slow"))
        if way == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await task
        else:
            await started.wait()
        if way == "cancelled task":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return "continued"

    started = asyncio.Event()
    run = start("impatient")
    record = log.over(run)
    assert (record.status, record.result) == (Status.SUCCESS, "continued")
    child = record.children.get()
    assert child.status == Status.STOPPED
    assert (child.stop_via, child.stop_reason) == ("parent", GAVE_UP)
    assert child.stop_requested_by is None
    assert log.order_of_ends() == ["slow", "impatient"]
    assert_consistent(run)


def test_a_caller_that_gives_up_while_its_child_is_being_started_leaves_no_child(
    start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    committed, gave_up = threading.Event(), threading.Event()
    start_child = starting.start_child

    def start_slowly(*arguments: Any) -> Any:
        result = start_child(*arguments)  # committed, but not yet known to its caller
        committed.set()
        assert gave_up.wait(15)
        return result

    monkeypatch.setattr(starting, "start_child", start_slowly)

    @agent("unwanted")
    async def unwanted(tools: Tools) -> None:
        ran.append("the child")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("impatient")
    async def impatient(tools: Tools) -> str:
        task = asyncio.create_task(tools.agents.call("unwanted"))
        await asyncio.to_thread(committed.wait, 15)
        task.cancel()
        await asyncio.sleep(0)
        gave_up.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "continued"

    run = start("impatient")
    record = log.over(run)
    assert record.result == "continued"
    child = record.children.get()
    assert child.status == Status.STOPPED
    assert assert_consistent(run)


class TestStopDuringAChildsStart:
    """A child's start against a stop of its caller: in forced orders, then at random."""

    @pytest.fixture
    def family(self, monkeypatch: pytest.MonkeyPatch) -> _Family:
        return _Family(monkeypatch)

    def test_a_stop_before_the_insert_leaves_no_child(
        self, family: _Family, start: Start, stop: Any, log: Journal
    ) -> None:
        with family.held_before_insert() as (waiting, may_continue):
            run = start("caller")
            assert waiting.wait(15)
            stop(run)
            may_continue.set()
            record = log.over(run)
        assert record.status == Status.STOPPED
        assert not RunRecord.objects.filter(agent="child").exists()
        assert family.ran == []
        (call,) = log.of(run, "agent_call")
        assert call.data["outcome"] == "stopped"
        assert "run" not in call.data
        assert_consistent(run)

    def test_a_stop_between_commit_and_start_is_observed_at_the_start(
        self, family: _Family, start: Start, stop: Any, log: Journal
    ) -> None:
        with family.held_after_commit() as (waiting, may_continue):
            run = start("caller")
            assert waiting.wait(15)
            stop(run)
            may_continue.set()
            record = log.over(run)
        child = RunRecord.objects.get(agent="child")
        assert (record.status, child.status) == (Status.STOPPED, Status.STOPPED)
        assert family.ran == []
        assert log.order_of_ends() == ["child", "caller"]
        assert_consistent(run)

    @pytest.mark.usefixtures("on_both_databases")
    @pytest.mark.parametrize("above", ["caller", "grandparent"])
    def test_a_stop_during_the_insert_waits_for_it_and_includes_the_child(
        self, above: str, family: _Family, start: Start, stop: Any, log: Journal
    ) -> None:
        """The caller's row is locked: the second writer sees the first writer's change."""

        @agent("grandparent")
        async def grandparent(tools: Tools) -> None:
            await tools.agents.call("caller")

        with family.held_in_transaction() as (waiting, may_continue):
            run = start(above)
            assert waiting.wait(15)
            with in_thread(stop, run) as answer:
                if (
                    above == "grandparent"
                ):  # on PostgreSQL it holds that row, and waits for the next
                    threading.Event().wait(0.2)
                assert not local_runs.get(run.pk).token.stopped  # type: ignore[union-attr]
                may_continue.set()
                assert answer().outcome == "accepted"
            record = log.over(run)
        child = RunRecord.objects.get(agent="child")
        assert (record.status, child.status) == (Status.STOPPED, Status.STOPPED)
        assert child.stop_root_request == run.pk
        assert_consistent(run)

    def test_many_times_at_random(self, start: Start, stop: Any, log: Journal) -> None:
        rounds = 25
        dice = random.Random(2)

        @agent("child")
        async def child(tools: Tools) -> None:
            while True:
                await tools.data_store.get("x")

        @agent("caller")
        async def caller(tools: Tools) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(tools.agents.call("child"))

        runs = []
        pause = threading.Event()
        for _ in range(rounds):
            run = start("caller")
            pause.wait(dice.random() * 0.02)
            stop(run)
            runs.append(run)
        records = log.until_over(*runs)
        assert {record.status for record in records} == {Status.STOPPED}
        assert not RunRecord.objects.active().exists()
        assert not RunRecord.objects.exclude(status=Status.STOPPED).exists()
        assert_all_consistent()


class _Family:
    """A caller and its child, with three points at which the child's start can be held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.ran: list[str] = []

        @agent("child")
        async def child(tools: Tools) -> None:
            self.ran.append("child")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.call("child")

    @contextmanager
    def _held(self, name: str, before: bool) -> Iterator[tuple[threading.Event, threading.Event]]:
        waiting, may_continue = threading.Event(), threading.Event()
        original = getattr(starting, name)

        def hold() -> None:
            waiting.set()
            assert may_continue.wait(15)

        def held(*arguments: Any, **options: Any) -> Any:
            if name == "start_child" and arguments[1] != "child":
                return original(*arguments, **options)
            if name == "_insert" and arguments[0].agent != "child":
                return original(*arguments, **options)  # the ancestors
            if before:
                hold()
            result = original(*arguments, **options)
            if not before:
                hold()
            return result

        with self._monkeypatch.context() as patch:
            patch.setattr(starting, name, held)
            try:
                yield waiting, may_continue
            finally:
                may_continue.set()

    def held_before_insert(self) -> Any:
        return self._held("start_child", before=True)

    def held_in_transaction(self) -> Any:
        return self._held("_insert", before=False)

    def held_after_commit(self) -> Any:
        return self._held("start_child", before=False)
