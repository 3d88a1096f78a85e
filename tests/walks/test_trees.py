"""A stop of a tree of agents: all of it, from below, and nothing that is being born escapes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from agents import (
    AgentStopped,
    SubAgentFailed,
    SubAgentStopped,
    SyncTools,
    Tools,
    agent,
    cancellation,
)
from runs.actions import starting, stopping
from runs.actions.stopping import StopResult
from runs.delivery import local_runs, stops
from runs.exceptions import RunAlreadyFinished
from runs.models import RunRecord
from runs.status import Status
from runs.worker.agent_caller import GAVE_UP
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start, in_thread, together

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def tree() -> Callable[[], int]:
    """Agents three levels deep: root -> 3 middles -> 3 leaves each, which work until stopped.

    Returns a function that says how many leaves are at work.
    """
    at_work: list[int] = []

    @agent("leaf")
    async def leaf(tools: Tools) -> None:
        at_work.append(1)
        tools.log("at work")
        while True:
            await tools.data_store.set("leaf", 1)
            await asyncio.sleep(0.002)

    @agent("middle")
    async def middle(tools: Tools, way: str) -> None:
        if way == "gather":
            await asyncio.gather(*[tools.agents.call("leaf") for _ in range(3)])
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(tools.agents.call("leaf"))

    @agent("root")
    async def root(tools: Tools, way: str) -> None:
        calls = [tools.agents.call("middle", {"way": way}) for _ in range(3)]
        if way == "gather":
            await asyncio.gather(*calls)
        else:
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(call)

    return lambda: len(at_work)


@pytest.mark.parametrize("way", ["gather", "TaskGroup"])
def test_every_descendant_is_stopped_before_the_root_is(
    way: str, tree: Callable[[], int], start: Start, stop: Any, log: Journal
) -> None:
    run = start("root", way=way)
    log.until(lambda: sum(e.data.get("message") == "at work" for e in log.events) == 9, "leaves")
    stop(run, reason="wrong document")
    log.over(run)
    assert sorted(log.order_of_ends()) == ["leaf"] * 9 + ["middle"] * 3 + ["root"]
    assert log.order_of_ends()[-1] == "root"
    records = RunRecord.objects.all()
    assert {record.status for record in records} == {Status.STOPPED}
    assert {record.stop_reason for record in records} == {"wrong document"}
    assert {record.stop_root_request for record in records} == {run.pk}
    assert {(record.depth, record.stop_via) for record in records} == {
        (0, "api"),
        (1, "parent"),
        (2, "parent"),
    }
    for middle in records.filter(agent="middle"):
        latest = max(leaf.finished_at for leaf in middle.children.all())
        assert latest <= middle.finished_at
    assert assert_all_consistent()


def test_to_stop_a_middle_stops_its_subtree_and_nothing_else(
    start: Start, stop: Any, log: Journal
) -> None:
    told: list[Any] = []

    @agent("leaf")
    async def leaf(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("middle")
    async def middle(tools: Tools) -> None:
        await asyncio.gather(tools.agents.call("leaf"), tools.agents.call("leaf"))

    @agent("sibling")
    async def sibling(tools: Tools) -> str:
        while not told:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)
        return "untouched"

    @agent("root")
    async def root(tools: Tools) -> dict[str, Any]:
        async with asyncio.TaskGroup() as group:
            other = group.create_task(tools.agents.call("sibling"))
            try:
                await tools.agents.call("middle")
            except SubAgentStopped as error:
                told.append(error)
            await tools.data_store.set("after", "the caller may go on")
        return {"other": await other}

    run = start("root")
    log.until(lambda: sum(e.data.get("message") == "at work" for e in log.events) == 2, "leaves")
    child = RunRecord.objects.get(agent="middle")
    stop(child)
    record = log.over(run)
    assert record.status == Status.SUCCESS
    assert record.result == {"other": "untouched"}
    assert not record.stop_requested
    (error,) = told
    assert (error.agent, error.run) == ("middle", str(child.pk))
    by_agent = {r.agent: r for r in RunRecord.objects.all()}
    assert by_agent["middle"].status == by_agent["leaf"].status == Status.STOPPED
    assert by_agent["sibling"].status == Status.SUCCESS
    assert RunRecord.objects.filter(agent="leaf", stop_root_request=child.pk).count() == 2
    call = next(e for e in log.of(run, "agent_call") if e.data["label"] == "middle")
    assert call.data["status"] == "stopped"
    assert_consistent(run)


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
    begin = starting.start_child

    def start_slowly(*arguments: Any) -> Any:
        result = begin(*arguments)  # committed, and its caller does not know yet
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

    def test_a_stop_between_birth_and_beginning_is_met_at_the_beginning(
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
        """The caller's row is locked: whoever comes second sees what the first has done."""

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


def test_a_childs_error_reaches_its_caller_and_its_own_log(start: Start, log: Journal) -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        raise LookupError("no such page")

    @agent("caller")
    async def caller(tools: Tools) -> dict[str, Any]:
        with pytest.raises(SubAgentFailed) as caught:
            await tools.agents.call("child")
        return caught.value.error

    run = start("caller")
    record = log.over(run)
    child_record = record.children.get()
    assert record.status == Status.SUCCESS
    assert record.result == child_record.error
    assert record.result["type"] == "LookupError"
    assert child_record.status == Status.ERROR
    assert_consistent(run)


def test_def_agents_call_each_other_and_stop_together(
    start: Start, stop: Any, log: Journal
) -> None:
    @agent("leaf")
    def leaf(tools: SyncTools) -> None:
        while True:
            tools.data_store.get("x")

    @agent("caller")
    def caller(tools: SyncTools) -> None:
        tools.agents.call("leaf")

    run = start("caller")
    log.until_event_of_agent("leaf", "data_store")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert log.order_of_ends() == ["leaf", "caller"]
    assert_consistent(run)


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
        if isinstance(answers[0], RunAlreadyFinished):  # the child's stop was quicker than its own
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


def test_a_worker_may_be_watched_while_its_tree_goes_down(
    tree: Callable[[], int], start: Start, stop: Any, log: Journal, worker: Worker
) -> None:
    """Whoever looks, at any time, never sees a caller that is over above a child that is not."""
    run = start("root", way="TaskGroup")
    log.until(lambda: sum(e.data.get("message") == "at work" for e in log.events) == 9, "leaves")
    wrong: list[Any] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            rows = {r.pk: r for r in RunRecord.objects.all()}
            for row in rows.values():
                above = rows.get(row.parent_id)
                if above is not None and above.is_terminal and not row.is_terminal:
                    wrong.append((above.agent, row.agent))

    with in_thread(watch):
        stop(run)
        log.over(run)
        done.set()
    assert not wrong


def test_the_stop_itself_does_not_come_out_of_a_swallowing_caller(
    start: Start, stop: Any, log: Journal
) -> None:
    met: list[str] = []

    @agent("child")
    async def child(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)

    @agent("caller")
    async def caller(tools: Tools) -> None:
        try:
            await tools.agents.call("child")
        except Exception as error:  # a caller that takes everything for an error of its child
            met.append(type(error).__name__)
        except AgentStopped:
            met.append("AgentStopped")
            raise

    run = start("caller")
    log.until_event_of_agent("child", "log")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert met == ["AgentStopped"]
    assert_consistent(run)


class TestTwoStopsOfOneTree:
    """The first has committed, and has not come to trip the tokens, when the second does."""

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

    def test_a_log_tells_of_the_stop_before_its_run_can_meet_it(
        self, run: RunRecord, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tokens of a tree trip at one instant, their callbacks run one after the other."""
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

    @pytest.mark.postgres  # SQLite has one writer, and the birth would wait for the stop
    def test_a_child_that_is_born_below_while_the_tree_is_written_is_found(
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

        mark = stopping._mark

        def held(request: Any, column: str, *rest: Any) -> Any:
            if column == "parent_id":
                reading.wait_here()
            return mark(request, column, *rest)  # type: ignore[arg-type]

        run = start("root")
        bearing.until_arrived()
        monkeypatch.setattr(stopping, "_mark", held)
        with in_thread(stop, run):
            reading.until_arrived()
            bearing.open()
            leaves = RunRecord.objects.filter(agent="leaf")
            eventually(leaves.exists, "the leaf is born")
            reading.open()
        record = log.over(run)
        assert record.status == Status.STOPPED
        leaf_record = RunRecord.objects.get(agent="leaf")
        assert (leaf_record.stop_via, leaf_record.stop_root_request) == ("parent", run.pk)
        assert_consistent(run)
