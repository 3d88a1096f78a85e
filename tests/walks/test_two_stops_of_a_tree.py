"""Two stops of one tree at the same time agree, and each run keeps the reason of its own stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from agents import (
    Tools,
    agent,
    cancellation,
)
from runs.actions import stopping
from runs.actions.stopping import StopResult
from runs.delivery import stops
from runs.exceptions import RunAlreadyFinished
from runs.models import RunRecord
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start, in_thread, together

pytestmark = pytest.mark.usefixtures("worker")


def test_two_stops_at_once_of_root_and_child_agree(start: Start, stop: Any, log: Journal) -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)

    @agent("caller")
    async def caller(tools: Tools) -> None:
        await tools.agents.call("child")

    for _ in range(20):
        run = start("caller")
        event = log.until_event_of_agent("child", "log", after=run)
        below = RunRecord.objects.get(pk=event.run)
        answers = together(partial(stop, run, reason="all"), partial(stop, below, reason="part"))
        root, below = log.until_over(run, below)
        assert below.status == Status.STOPPED
        if isinstance(answers[0], RunAlreadyFinished):  # the child's stop was faster than its own
            assert root.status == Status.ERROR
            assert root.error["type"] == "SubAgentStopped"
        else:
            assert answers[0].outcome == "accepted"
            assert root.status in (Status.STOPPED, Status.ERROR)
        assert isinstance(answers[1], StopResult | RunAlreadyFinished)
        assert (below.stop_reason, below.stop_via, below.stop_root_request) in (
            ("all", "parent", run.pk),
            ("part", "api", below.pk),
        )
        assert assert_consistent(run)


class TestSecondStopOfATree:
    """The first stop has committed but not yet tripped the tokens when the second one commits."""

    @pytest.fixture
    def run(self, start: Start, log: Journal) -> RunRecord:
        @agent("child")
        async def child(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.001)

        @agent("caller")
        async def caller(tools: Tools) -> None:
            await asyncio.gather(*[tools.agents.call("child") for _ in range(3)])

        run = start("caller")
        log.until(lambda: sum(e.type == "log" for e in log.events) == 3, "the children")
        return run

    @contextmanager
    def _undelivered(
        self, monkeypatch: pytest.MonkeyPatch, stop: Any, run: RunRecord, reason: str
    ) -> Iterator[None]:
        gate = Gate()
        deliver = stops.deliver

        def held(*arguments: Any) -> None:
            gate.wait_here()
            deliver(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(stops, "deliver", held)
            with in_thread(partial(stop, run, reason=reason)):
                gate.until_arrived()
                patch.undo()
                try:
                    yield
                finally:
                    gate.open()

    def test_the_second_of_the_root_trips_for_the_first(
        self, run: RunRecord, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with self._undelivered(monkeypatch, stop, run, "first"):
            assert stop(run, reason="second").outcome == "already_stopping"
            record = log.over(run)
        assert (record.status, record.stop_reason) == (Status.STOPPED, "first")
        assert_consistent(run)

    def test_one_of_a_child_keeps_its_reason(
        self, run: RunRecord, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child = run.children.all()[1]
        with self._undelivered(monkeypatch, stop, child, "mine"):
            assert stop(run, reason="all").outcome == "accepted"
            record = log.over(run)
        assert (record.status, record.stop_reason) == (Status.STOPPED, "all")
        child.refresh_from_db()
        assert (child.stop_reason, child.stop_via) == ("mine", "api")
        assert_consistent(run)

    def test_a_log_has_the_stop_before_its_run_can_observe_it(
        self, run: RunRecord, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tokens of a tree trip at one instant; their callbacks run one after the other."""
        gate = Gate()
        call = cancellation._call

        def held(callback: Any, *arguments: Any) -> None:
            if threading.current_thread().name.startswith("ThreadPool"):  # of the stop
                gate.wait_here()
            call(callback, *arguments)

        monkeypatch.setattr(cancellation, "_call", held)
        with in_thread(stop, run):
            gate.until_arrived()
            log.over(run)
            gate.open()
        assert_consistent(run)

    @pytest.mark.postgres  # SQLite has one writer, so the start would wait for the stop
    def test_a_child_that_is_started_while_the_stop_of_its_tree_is_written_is_found(
        self, start: Start, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading, bearing = Gate(), Gate()

        @agent("leaf")
        async def leaf(tools: Tools) -> None:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.001)

        @agent("middle")
        async def middle(tools: Tools) -> None:
            await bearing.wait()
            await tools.agents.call("leaf")

        @agent("root")
        async def root(tools: Tools) -> None:
            await tools.agents.call("middle")

        mark = stopping.mark

        def held(request: Any, column: str, *rest: Any) -> Any:
            if column == "parent_id":
                reading.wait_here()
            return mark(request, column, *rest)  # type: ignore[arg-type]

        run = start("root")
        bearing.until_arrived()
        monkeypatch.setattr(stopping, "mark", held)
        with in_thread(stop, run):
            reading.until_arrived()
            bearing.open()
            leaves = RunRecord.objects.filter(agent="leaf")
            eventually(leaves.exists, "the leaf is started")
            reading.open()
        record = log.over(run)
        assert record.status == Status.STOPPED
        leaf_record = RunRecord.objects.get(agent="leaf")
        assert (leaf_record.stop_via, leaf_record.stop_root_request) == ("parent", run.pk)
        assert_consistent(run)
