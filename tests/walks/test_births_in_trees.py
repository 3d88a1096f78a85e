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


@pytest.mark.parametrize("way", ["timeout", "cancelled task", "left behind"])
def test_a_caller_that_gives_up_waiting_stops_its_child(
    way: str, start: Start, log: Journal
) -> None:
    @agent("slow")
    async def slow(tools: Tools) -> None:
        began.set()
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("impatient")
    async def impatient(tools: Tools) -> str:
        nonlocal began
        began = asyncio.Event()
        task = asyncio.create_task(tools.agents.call("slow"))
        if way == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await task
        else:
            await began.wait()
        if way == "cancelled task":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return "went on"

    began = asyncio.Event()
    run = start("impatient")
    record = log.over(run)
    assert (record.status, record.result) == (Status.SUCCESS, "went on")
    child = record.children.get()
    assert child.status == Status.STOPPED
    assert (child.stop_via, child.stop_reason) == ("parent", GAVE_UP)
    assert child.stop_requested_by is None
    assert log.order_of_ends() == ["slow", "impatient"]
    assert_consistent(run)


def test_a_caller_that_gives_up_while_its_child_is_being_born_leaves_none_behind(
    start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    born, gave_up = threading.Event(), threading.Event()
    bear = starting.start_child

    def start_slowly(*arguments: Any) -> Any:
        result = bear(*arguments)  # committed, and its caller does not know yet
        born.set()
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
        await asyncio.to_thread(born.wait, 15)
        task.cancel()
        await asyncio.sleep(0)
        gave_up.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "went on"

    run = start("impatient")
    record = log.over(run)
    assert record.result == "went on"
    child = record.children.get()
    assert child.status == Status.STOPPED
    assert assert_consistent(run)


class TestAChildThatIsBeingStarted:
    """The birth of a child against a stop of its caller: forced orders, then at random."""

    @pytest.fixture
    def family(self, monkeypatch: pytest.MonkeyPatch) -> _Family:
        return _Family(monkeypatch)

    def test_a_stop_before_the_birth_leaves_no_child(
        self, family: _Family, start: Start, stop: Any, log: Journal
    ) -> None:
        with family.held_before_birth() as (waiting, go_on):
            run = start("caller")
            assert waiting.wait(15)
            stop(run)
            go_on.set()
            record = log.over(run)
        assert record.status == Status.STOPPED
        assert not RunRecord.objects.filter(agent="child").exists()
        assert family.ran == []
        (call,) = log.of(run, "agent_call")
        assert call.data["outcome"] == "stopped"
        assert "run" not in call.data
        assert_consistent(run)

    def test_a_stop_between_birth_and_start_is_observed_at_the_start(
        self, family: _Family, start: Start, stop: Any, log: Journal
    ) -> None:
        with family.held_after_birth() as (waiting, go_on):
            run = start("caller")
            assert waiting.wait(15)
            stop(run)
            go_on.set()
            record = log.over(run)
        child = RunRecord.objects.get(agent="child")
        assert (record.status, child.status) == (Status.STOPPED, Status.STOPPED)
        assert family.ran == []
        assert log.order_of_ends() == ["child", "caller"]
        assert_consistent(run)

    @pytest.mark.usefixtures("on_both_databases")
    @pytest.mark.parametrize("above", ["caller", "grandparent"])
    def test_a_stop_during_the_birth_waits_for_it_and_takes_the_child_along(
        self, above: str, family: _Family, start: Start, stop: Any, log: Journal
    ) -> None:
        """The caller's row is locked: the second writer sees what the first has done."""

        @agent("grandparent")
        async def grandparent(tools: Tools) -> None:
            await tools.agents.call("caller")

        with family.held_during_birth() as (waiting, go_on):
            run = start(above)
            assert waiting.wait(15)
            with in_thread(stop, run) as answer:
                if above == "grandparent":  # on PostgreSQL it holds that row, and wants the next
                    threading.Event().wait(0.2)
                assert not local_runs.get(run.pk).token.stopped  # type: ignore[union-attr]
                go_on.set()
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
    """A caller and its child, and a hold at three points of the child's birth."""

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
        waiting, go_on = threading.Event(), threading.Event()
        original = getattr(starting, name)

        def hold() -> None:
            waiting.set()
            assert go_on.wait(15)

        def held(*arguments: Any, **options: Any) -> Any:
            if name == "start_child" and arguments[1] != "child":
                return original(*arguments, **options)
            if name == "_insert" and arguments[0].agent != "child":
                return original(*arguments, **options)  # those above
            if before:
                hold()
            result = original(*arguments, **options)
            if not before:
                hold()
            return result

        with self._monkeypatch.context() as patch:
            patch.setattr(starting, name, held)
            try:
                yield waiting, go_on
            finally:
                go_on.set()

    def held_before_birth(self) -> Any:
        return self._held("start_child", before=True)

    def held_during_birth(self) -> Any:
        return self._held("_insert", before=False)

    def held_after_birth(self) -> Any:
        return self._held("start_child", before=False)
