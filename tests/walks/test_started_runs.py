"""Sub-agents that are started: taken by any worker, over before their caller, never stuck."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from agents import SubAgentFailed, SubAgentStopped, SyncTools, Tools, agent
from agents.runtime import Outcome
from agents.trace import Usage
from runs import transitions
from runs.actions import leases, recovery, starting, stopping
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.consumers import AgentConsumer
from runs.db import transactions
from runs.delivery import stops
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import started_runs
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.rows import make_worker
from tests.support.running import Gate, Start

Hire = Callable[..., Worker]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(autouse=True)
def agents(gate: Gate) -> None:
    @agent("double")
    async def double(tools: Tools, n: int) -> int:
        return n * 2

    @agent("endless")
    async def endless(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("gated")
    async def gated(tools: Tools) -> str:
        tools.log("at work")
        await gate.wait()
        await tools.data_store.get("x")
        return "went on"


def at_work(log: Journal, count: int) -> None:
    log.until(lambda: sum(e.data.get("message") == "at work" for e in log.events) == count, "work")


def test_map_and_reduce_over_two_workers(hire: Hire, start: Start, log: Journal) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> list[int]:
        handles = [await tools.agents.start("double", {"n": n}) for n in range(20)]
        return list(await asyncio.gather(*handles))

    for _ in range(2):
        hire()
    run = start("caller")
    record = log.over(run)
    assert record.result == [n * 2 for n in range(20)]
    children = list(record.children.all())
    assert {child.priority for child in children} == {record.priority}
    assert all(child.holds_slot for child in children), "they were taken from the queue"
    assert_consistent(run)


def test_def_agents_start_and_wait(worker: Worker, start: Start, log: Journal) -> None:
    @agent("caller")
    def caller(tools: SyncTools) -> list[int]:
        handles = [tools.agents.start("double", {"n": n}) for n in range(3)]
        return [handle.wait() for handle in handles]

    run = start("caller")
    assert log.over(run).result == [0, 2, 4]
    assert_consistent(run)


def test_how_a_child_ended_comes_out_of_its_handle(
    worker: Worker, start: Start, stop: Any, log: Journal
) -> None:
    @agent("failing")
    async def failing(tools: Tools) -> None:
        raise LookupError("no such page")

    @agent("caller")
    async def caller(tools: Tools) -> list[Any]:
        ends: list[Any] = []
        for name in ("failing", "endless"):
            handle = await tools.agents.start(name)
            try:
                await handle
            except SubAgentFailed as error:
                ends.append(error.error["type"])
            except SubAgentStopped as error:
                ends.append(error.run == handle.run)
        return ends

    run = start("caller")
    child = log.until_event_of_agent("endless", "log").run
    stop(RunRecord.objects.get(pk=child))
    assert log.over(run).result == ["LookupError", True]
    assert_consistent(run)


class TestNoSlotIsFree:
    """One worker with one slot, which the caller has."""

    @pytest.fixture
    def worker(self, options: Any, hire: Hire) -> Worker:
        options(MAX_CONCURRENT=1)
        return hire()

    @pytest.mark.usefixtures("on_both_databases", "worker")
    def test_the_caller_adopts_what_it_waits_for(self, start: Start, log: Journal) -> None:
        @agent("caller")
        async def caller(tools: Tools, depth: int) -> int:
            if depth == 0:
                return 1
            handles = [await tools.agents.start("caller", {"depth": depth - 1}) for _ in range(2)]
            return sum(await asyncio.gather(*handles))

        run = start("caller", depth=2)
        assert log.over(run).result == 4
        below = RunRecord.objects.filter(root=run.pk, depth__gt=0)
        assert {child.holds_slot for child in below} == {False}
        assert_consistent(run)

    @pytest.mark.usefixtures("worker")
    def test_it_adopts_what_it_has_left_when_its_function_is_over(
        self, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            (await tools.agents.start("double", {"n": 1})).leave()
            return "done"

        run = start("caller")
        assert log.over(run).result == "done"
        assert run.children.get().result == 2
        assert_consistent(run)

    @pytest.mark.usefixtures("worker")
    def test_a_stop_reaches_what_was_adopted(self, start: Start, stop: Any, log: Journal) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await (await tools.agents.start("endless"))

        run = start("caller")
        at_work(log, 1)
        stop(run)
        assert log.over(run).status == Status.STOPPED
        assert log.order_of_ends() == ["endless", "caller"]
        assert_consistent(run)

    @pytest.mark.usefixtures("worker")
    def test_what_is_stopped_while_it_is_queued_is_not_begun(
        self, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.start("endless")

        run = start("caller")
        assert log.over(run).status == Status.SUCCESS
        child = assert_consistent(run).children.get()
        assert (child.status, child.attempt) == (Status.STOPPED, 0)
        assert child.stop_reason == "its caller did not wait for it"


class TestAdoption:
    """Two take a queued run at the same moment, or one wants to stop it: one of them has it."""

    @pytest.fixture
    def held(self, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, list[Any]]:
        """Adoptions wait at a gate; what came of them is in the list."""
        gate, came = Gate(), []
        adopt = leases.adopt

        def holding(*arguments: Any) -> Any:
            gate.wait_here()
            came.append(adopt(*arguments))
            return came[-1]

        monkeypatch.setattr(leases, "adopt", holding)
        return gate, came

    @pytest.fixture
    def run(self, options: Any, hire: Hire, start: Start, held: Any) -> RunRecord:
        @agent("caller")
        async def caller(tools: Tools) -> Any:
            return await (await tools.agents.start("double", {"n": 4}))

        options(MAX_CONCURRENT=1)
        hire()
        run = start("caller")
        held[0].until_arrived()
        return run

    def test_another_worker_is_faster(
        self, run: RunRecord, held: Any, hire: Hire, log: Journal
    ) -> None:
        hire()
        child = run.children.get()
        log.over(child)
        held[0].open()
        assert log.over(run).result == 8
        assert held[1] == [None]
        assert assert_consistent(child).attempt == 1

    def test_a_stop_is_faster(self, run: RunRecord, held: Any, stop: Any, log: Journal) -> None:
        stop(run)
        held[0].open()
        assert log.over(run).status == Status.STOPPED
        assert held[1] == [None]
        assert assert_consistent(run).children.get().attempt == 0

    def test_the_caller_is_faster(
        self, run: RunRecord, held: Any, hire: Hire, log: Journal
    ) -> None:
        held[0].open()
        assert log.over(run).result == 8
        hire()
        assert held[1] != [None]
        assert assert_consistent(run).children.get().holds_slot is False


def test_what_was_not_waited_for_is_stopped_when_the_function_fails(
    worker: Worker, start: Start, log: Journal
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> None:
        await tools.agents.start("endless")
        while not any(e.data.get("message") == "at work" for e in log.events):
            await asyncio.sleep(0.01)
        raise ValueError("lost")

    run = start("caller")
    record = log.over(run)
    assert (record.status, record.error["type"]) == (Status.ERROR, "ValueError")
    assert log.order_of_ends() == ["endless", "caller"]
    child = assert_consistent(run).children.get()
    assert (child.status, child.stop_via) == (Status.STOPPED, "parent")


def test_a_run_shows_what_it_waits_for_when_its_function_is_over(
    worker: Worker, start: Start, stop: Any, log: Journal, gate: Gate
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> str:
        (await tools.agents.start("gated")).leave()
        return "done"

    run = start("caller")
    gate.until_arrived()

    def waits() -> Any:
        run.refresh_from_db()
        return [(call["tool"], call["label"]) for call in run.in_flight]

    eventually(lambda: waits() == [("agents.wait", "gated")], "the run shows its child")
    assert run.status == Status.RUNNING
    gate.open()
    assert log.over(run).result == "done"
    assert_consistent(run)


def test_a_stop_reaches_what_was_left(
    worker: Worker, start: Start, stop: Any, log: Journal
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> str:
        (await tools.agents.start("endless")).leave()
        return "done"

    run = start("caller")
    at_work(log, 1)
    stop(run)
    record = log.over(run)
    assert (record.status, record.stop_finished_first) == (Status.SUCCESS, True)
    assert record.children.get().status == Status.STOPPED
    assert_consistent(run)


@pytest.mark.usefixtures("on_both_databases")
def test_a_stop_of_a_tree_over_two_workers_ends_it_from_below(
    hire: Hire, start: Start, stop: Any, log: Journal
) -> None:
    @agent("middle")
    async def middle(tools: Tools) -> None:
        await asyncio.gather(*[await tools.agents.start("endless") for _ in range(3)])

    @agent("root")
    async def root(tools: Tools) -> None:
        called = tools.agents.call("middle")
        started = [await tools.agents.start("middle") for _ in range(2)]
        await asyncio.gather(called, *started)

    for _ in range(2):
        hire()
    run = start("root")
    at_work(log, 9)
    stop(run, reason="wrong document")
    log.over(run)
    assert sorted(log.order_of_ends()) == ["endless"] * 9 + ["middle"] * 3 + ["root"]
    records = RunRecord.objects.all()
    assert {record.status for record in records} == {Status.STOPPED}
    assert {record.stop_root_request for record in records} == {run.pk}
    assert_consistent(run)


@pytest.mark.parametrize("then", ["requeue", "fail"])
def test_a_shutdown_ends_what_was_started_before_its_caller(
    then: Any, options: Any, hire: Hire, start: Start, log: Journal
) -> None:
    @agent("caller", on_worker_loss=then, max_attempts=2)
    async def caller(tools: Tools) -> None:
        (await tools.agents.start("endless")).leave()
        await (await tools.agents.start("endless"))

    worker = hire()
    run = start("caller")
    at_work(log, 2)
    worker.stop_threads()
    run.refresh_from_db()
    for child in run.children.all():
        assert child.finished_at is not None
        assert child.status in (Status.ERROR, Status.STOPPED)
    if then == "fail":
        assert (run.status, run.error["code"]) == (Status.ERROR, "worker_shutdown")
        assert_consistent(run)
    else:
        assert (run.status, run.holds_slot, run.in_flight) == (Status.QUEUED, True, [])


def test_what_a_shutdown_hands_back_is_stopped_with_its_caller(
    hire: Hire, start: Start, log: Journal, gate: Gate
) -> None:
    @agent("again", on_worker_loss="requeue")
    async def again(tools: Tools) -> None:
        gate.arrive()
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("caller")
    async def caller(tools: Tools) -> None:
        await (await tools.agents.start("again"))

    worker = hire()
    run = start("caller")
    gate.until_arrived()
    worker.stop_threads()
    record = assert_consistent(run)
    child = record.children.get()
    assert (record.error["code"], child.status) == ("worker_shutdown", Status.STOPPED)
    assert (child.stop_via, child.stop_reason) == ("parent", recovery.CALLER_LOST)


class TestADatabaseThatIsAway:
    """For a moment: so long agents go on."""

    @pytest.fixture
    def away(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
        """Be away for some calls of what starts and stops runs; the list has them."""

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
    def test_calls_of_others_wait_for_it(
        self, tool: str, worker: Worker, start: Start, log: Journal, away: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> int:
            if tool == "call":
                return int(await tools.agents.call("double", {"n": 4}))
            return int(await (await tools.agents.start("double", {"n": 4})))

        broken = away("_new_child")
        run = start("caller")
        assert log.over(run).result == 8
        assert len(broken) == 2
        assert assert_consistent(run).children.count() == 1

    def test_a_stop_is_not_kept_waiting(
        self, worker: Worker, start: Start, stop: Any, log: Journal, away: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.call("double", {"n": 4})

        broken = away("_new_child", times=10**9)
        run = start("caller")
        eventually(lambda: len(broken) > 0, "the call has failed")
        stop(run)
        assert log.over(run).status == Status.STOPPED
        assert not assert_consistent(run).children.exists()

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_what_was_not_waited_for_is_asked_to_stop_all_the_same(
        self, when: str, worker: Worker, start: Start, log: Journal, away: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            await tools.agents.start("endless")
            return "done"

        broken = away("request_stop", when)
        run = start("caller")
        record = log.over(run)
        assert (record.status, record.result) == (Status.SUCCESS, "done")
        assert broken
        assert assert_consistent(run).children.get().status == Status.STOPPED

    def test_a_called_one_that_nobody_waits_for_is_asked_to_stop_all_the_same(
        self, worker: Worker, start: Start, log: Journal, away: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await tools.agents.call("endless")
            return "went on"

        broken = away("request_stop")
        run = start("caller")
        assert log.over(run).result == "went on"
        assert len(broken) == 2
        assert assert_consistent(run).children.get().status == Status.STOPPED


def test_nothing_is_born_below_a_run_whose_worker_was_lost(
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


class TestAChildElsewhere:
    """Its worker is a record only; what that would write, the test does."""

    @pytest.fixture
    def far(self, transactional_db: None) -> WorkerRecord:
        return make_worker(name="far")

    @pytest.fixture
    def look_seconds(self) -> float:
        return started_runs.POLL_SECONDS

    @pytest.fixture
    def run(
        self,
        options: Any,
        hire: Hire,
        start: Start,
        log: Journal,
        look_seconds: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> RunRecord:
        self.looked = threading.Event()
        read = started_runs._read

        def noting(ids: Any) -> Any:
            rows = read(ids)
            self.looked.set()
            return rows

        monkeypatch.setattr(started_runs, "_read", noting)
        monkeypatch.setattr(started_runs, "POLL_SECONDS", look_seconds)
        monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 3600)
        monkeypatch.setattr(stops, "deliver_missed", lambda worker: None)  # only what is tested

        @agent("caller")
        async def caller(tools: Tools) -> Any:
            handle = await tools.agents.start("double", {"n": 1})
            try:
                return await handle
            except SubAgentStopped:
                return "the child alone"

        options(MAX_CONCURRENT=1)
        self.worker = hire()
        run = start("caller")
        log.until_event(run, "agent_call", tool="agents.start")
        return run

    def _claim(self, run: RunRecord, far: WorkerRecord) -> RunRecord:
        child = run.children.get()
        assert transitions.claim_one(far.pk, child.pk, timezone.now()) == 1
        return child

    def _end(self, child: RunRecord, outcome: Outcome) -> None:
        child.refresh_from_db()
        assert child.worker_id is not None
        ending = Ending(outcome, False, 0, 0)
        at = child.stop_requested_at
        updates = Updates(
            child.pk, child.worker_id, 1, usage=Usage(),
            acknowledged_at=at, observed_at=at, ending=ending,
        )  # fmt: skip
        assert record_updates([updates]).gone[child.pk] is not None

    def test_its_end_is_found_without_a_message(
        self, run: RunRecord, far: WorkerRecord, log: Journal
    ) -> None:
        child = self._claim(run, far)
        self._end(child, Outcome("success", result=7))
        assert log.over(run).result == 7

    @pytest.mark.parametrize("look_seconds", [3600.0])
    def test_a_message_brings_the_look_forward(
        self, run: RunRecord, far: WorkerRecord, log: Journal
    ) -> None:
        assert self.looked.wait(10)  # the next look is due in an hour
        child = self._claim(run, far)
        self._end(child, Outcome("success", result=7))
        message = {"type": "run.ended", "runs": [str(child.pk)]}
        consumer = AgentConsumer()
        consumer.scope = {"worker": self.worker}
        asyncio.run(consumer.run_ended(message))
        assert log.over(run).result == 7

    def test_the_worker_of_its_caller_is_told_of_its_end(
        self, run: RunRecord, far: WorkerRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child = self._claim(run, far)
        RunRecord.objects.filter(pk=child.pk).update(holds_slot=True)  # from the queue
        child.refresh_from_db()
        ending = Ending(Outcome("success"), False, 0, 0)
        updates = Updates(child.pk, far.pk, 1, usage=Usage(), ending=ending)
        assert record_updates([updates]).callers == {self.worker.id: [child.pk]}

    @pytest.mark.parametrize("of", ["root", "child"])
    def test_its_end_may_be_known_before_the_stop_of_its_caller_is_heard(
        self, of: str, run: RunRecord, far: WorkerRecord, stop: Any, log: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        child = self._claim(run, far)
        monkeypatch.setattr(stops, "deliver", lambda due: None)
        stop(run if of == "root" else child)
        self._end(child, Outcome("stopped"))
        record = log.over(run)
        if of == "root":
            assert record.status == Status.STOPPED
        else:
            assert (record.status, record.result) == (Status.SUCCESS, "the child alone")

    def test_a_shutdown_does_not_wait_for_it_for_ever_and_writes_no_end_before_its(
        self, run: RunRecord, far: WorkerRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(started_runs, "LEAVE_SECONDS", 0.2)
        child = self._claim(run, far)
        self.worker.stop_threads()
        child.refresh_from_db()
        assert (child.stop_via, child.stop_reason) == ("parent", recovery.CALLER_LOST)
        run.refresh_from_db()
        assert (run.status, run.in_flight) == (Status.RUNNING, [])
        assert recovery.recover_runs() == 0
        self._end(child, Outcome("stopped"))
        assert recovery.recover_runs() == 1
        run.refresh_from_db()
        assert (run.status, run.error["code"]) == (Status.ERROR, "worker_shutdown")

    def test_its_worker_is_lost(self, run: RunRecord, far: WorkerRecord, log: Journal) -> None:
        self._claim(run, far)
        WorkerRecord.objects.filter(pk=far.pk).update(lost_at=timezone.now())
        record = log.over(run)
        assert (record.status, record.error["type"]) == (Status.ERROR, "SubAgentFailed")
        assert run.children.get().error["code"] == "worker_lost"
        assert_consistent(run)

    def test_its_record_is_deleted(self, run: RunRecord, log: Journal) -> None:
        run.children.all().delete()
        record = log.over(run)
        assert (record.status, record.error["type"]) == (Status.ERROR, "SubAgentFailed")


def test_news_of_the_process_bring_the_look_forward(
    worker: Worker, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started_runs, "POLL_SECONDS", 3600)

    @agent("caller")
    async def caller(tools: Tools) -> list[Any]:
        return [await (await tools.agents.start("double", {"n": n})) for n in range(10)]

    assert log.over(start("caller")).result == [n * 2 for n in range(10)]


@pytest.mark.parametrize("limit", [1, None])
def test_a_limit_is_kept_as_long_as_something_gets_on(
    limit: int | None, hire: Hire, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 10)  # the queue is quicker than that
    together = asyncio.Barrier(limit or 4)
    most = []
    going_on = 0

    @agent("limited", max_concurrent=limit)
    async def limited(tools: Tools) -> None:
        nonlocal going_on
        going_on += 1
        most.append(going_on)
        for child in worker.executor.started._awaited.values():
            child.queued_at = -math.inf
        await together.wait()
        await asyncio.sleep(0.3)
        going_on -= 1

    @agent("caller")
    async def caller(tools: Tools) -> None:
        await asyncio.gather(*[await tools.agents.start("limited") for _ in range(4)])

    worker = hire()
    run = start("caller")
    log.over(run)
    assert max(most) == (4 if limit is None else 1)
    assert_consistent(run)


def test_what_others_are_to_have_next_is_not_adopted(
    options: Any, hire: Hire, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a limited agent: not beside one that was claimed just now, nor before the next one is."""
    far = make_worker(name="far")
    looks: list[int] = []
    read = started_runs._read

    def read_and_note(ids: list[Any]) -> Any:
        if len(ids) == 3 and 3 not in looks:
            # The last, so that the others are gone through before it.
            assert transitions.claim_one(far.pk, ids[-1], timezone.now()) == 1
            monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 0)
        rows = read(ids)
        looks.append(len(ids))
        return rows

    monkeypatch.setattr(started_runs, "_read", read_and_note)
    monkeypatch.setattr(started_runs, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 3600)

    @agent("limited", max_concurrent=1)
    async def limited(tools: Tools) -> str:
        return "adopted"

    @agent("caller")
    async def caller(tools: Tools) -> list[str]:
        handles = [await tools.agents.start("limited") for _ in range(3)]
        return list(await asyncio.gather(*handles))

    def look_on() -> None:
        before = len(looks)
        eventually(lambda: len(looks) >= before + 3, "it has looked again")

    options(MAX_CONCURRENT=1)
    worker = hire()
    run = start("caller")
    eventually(lambda: 3 in looks, "it waits for all of them")
    look_on()
    claimed = run.children.exclude(status=Status.QUEUED).get()
    assert claimed.worker_id == far.pk

    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 3600)
    for child in worker.executor.started._awaited.values():
        child.queued_at = -math.inf
    ending = Ending(Outcome("success", result="far"), False, 0, 0)
    record_updates([Updates(claimed.pk, far.pk, 1, usage=Usage(), ending=ending)])
    log.until_event(run, "agent_call", tool="agents.wait")
    look_on()
    assert run.children.filter(status=Status.QUEUED).count() == 2

    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 0)  # nobody has taken them
    assert sorted(log.over(run).result) == ["adopted", "adopted", "far"]
