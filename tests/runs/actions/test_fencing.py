"""A worker that has lost its claim changes nothing, and its agents can call nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from agents import AgentStopped, Tools, agent, cleanup
from agents.cancellation import StopCause
from agents.runtime import Outcome
from agents.trace import Event, Usage
from runs.actions import recovery, starting
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.db.threads import DatabaseThreads
from runs.delivery import local_runs, stops
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import ParentIsStopping
from runs.models import DataStoreEntry, RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import data_store as store_module
from runs.worker.data_store import OwnerStore
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, Start, in_thread
from tests.support.server import eventually

on_both_databases = pytest.mark.usefixtures("on_both_databases")


def declare_lost(worker: Any) -> None:
    WorkerRecord.objects.filter(pk=worker).update(lost_at=timezone.now())


@pytest.fixture
def held(alice: User) -> ActiveRun:
    worker = make_worker()
    run = make_run(
        alice, status=Status.RUNNING, worker=worker, requeue_on_loss=True, max_attempts=3
    )
    return ActiveRun(run.pk, worker.pk)


@pytest.fixture
def threads(transactional_db: None) -> Iterator[DatabaseThreads]:
    threads = DatabaseThreads(2)
    yield threads
    threads.close()


class TestTheDataStore:
    LOSSES: dict[str, Callable[[ActiveRun], Any]] = {
        "the worker was declared lost": lambda run: declare_lost(run.worker),
        "the run has ended": lambda run: RunRecord.objects.filter(pk=run.id).update(
            status="success", finished_at=timezone.now()
        ),
        "the run was claimed again": lambda run: RunRecord.objects.filter(pk=run.id).update(
            attempt=2
        ),
        "another worker has it": lambda run: RunRecord.objects.filter(pk=run.id).update(
            worker=make_worker()
        ),
    }

    @on_both_databases
    @pytest.mark.parametrize("loss", LOSSES)
    async def test_refuses_every_write_under_a_lost_claim(
        self, held: ActiveRun, alice: User, threads: DatabaseThreads, loss: str
    ) -> None:
        store = OwnerStore(alice.pk, threads, held)
        await store.set_many("default", {"kept": 1}, None)
        await threads.run(self.LOSSES[loss], held)
        writes: list[Callable[[], Any]] = [
            lambda: store.set_many("default", {"kept": 2, "new": 2}, None),
            lambda: store.delete_many("default", ["kept"]),
            lambda: store.clear("default"),
        ]
        for write in writes:
            with pytest.raises(AgentStopped, match="claim was lost"):
                await write()
            assert await store.get_all("default") == {"kept": 1}
        assert held.token.cause is StopCause.SHUTDOWN

    @on_both_databases
    def test_a_recovery_waits_for_a_write(
        self, held: ActiveRun, alice: User, threads: DatabaseThreads, monkeypatch: Any
    ) -> None:
        """The write comes first: the run is not recovered until the write is committed."""
        store = OwnerStore(alice.pk, threads, held)
        gate = Gate()
        checked = store_module._holds

        def holds(run: ActiveRun) -> bool:
            answer = checked(run)
            gate.wait_here()
            return answer

        monkeypatch.setattr(store_module, "_holds", holds)
        writing = threads.submit(
            store._under_claim, lambda: store._set_many("default", {"x": 1}, None)
        )
        gate.until_arrived()
        order: list[str] = []

        def recover() -> None:
            declare_lost(held.worker)
            # With locks of rows, the recovery skips a locked run.
            assert eventually(recovery.recover_runs) == 1
            order.append("recovered")

        with in_thread(recover):
            time.sleep(0.1)  # in the other order, no query shows that one waits
            order.append("written")
            gate.open()
            assert writing.result(10) == 1
        assert order == ["written", "recovered"]
        assert DataStoreEntry.objects.count() == 1

    @pytest.mark.postgres  # on SQLite, with its one writer at a time, the write can't even start
    def test_a_write_waits_for_a_recovery(
        self, held: ActiveRun, alice: User, threads: DatabaseThreads
    ) -> None:
        """The recovery comes first: the write waits, and is refused."""
        store = OwnerStore(alice.pk, threads, held)
        with transaction.atomic():
            run = RunRecord.objects.select_for_update(no_key=True).get(pk=held.id)
            writing = threads.submit(
                store._under_claim, lambda: store._set_many("default", {"x": 1}, None)
            )
            time.sleep(0.1)
            assert not writing.done()
            RunRecord.objects.filter(pk=run.pk).update(attempt=2)
        with pytest.raises(store_module.LeaseLost):
            writing.result(10)
        assert not DataStoreEntry.objects.exists()

    def test_an_agent_ends_by_the_lost_claim_and_not_by_its_tool(
        self, hire: Any, options: Any, start: Start, log: Journal
    ) -> None:
        options(LEASE_SECONDS=60)
        gate = Gate()
        seen: list[BaseException] = []

        @agent("writes")
        async def writes(tools: Tools) -> None:
            await gate.wait()
            try:
                await tools.data_store.set("x", 1)
            except BaseException as error:
                seen.append(error)
                raise

        worker = hire()
        run = start("writes")
        gate.until_arrived()
        entry = local_runs.get(run.pk)
        assert entry is not None
        with local_runs.watching(run.pk) as gone:
            declare_lost(worker.id)
            recovery.recover_runs()
            gate.open()
            assert gone.wait(10)
        assert [type(error) for error in seen] == [AgentStopped]
        assert entry.token.stopped
        # The heartbeat's recovery may hold the row, so that the one above has skipped it.
        eventually(lambda: RunRecord.objects.get(pk=run.pk).is_terminal, "it is recovered")
        assert assert_consistent(run).error["code"] == "worker_lost"
        assert not DataStoreEntry.objects.exists()


class TestTheLog:
    def test_a_run_that_unwinds_under_a_lost_lease_logs_no_shutdown(
        self, hire: Any, options: Any, start: Start, log: Journal
    ) -> None:
        """The worker has registered again by then, and its run is not recovered yet."""
        options(LEASE_SECONDS=60)
        gate = Gate()

        @agent("waits")
        async def waits(tools: Tools) -> None:
            await gate.wait()
            await tools.data_store.get("x")

        worker: Worker = hire()
        run = start("waits")
        gate.until_arrived()
        with local_runs.watching(run.pk) as gone:
            declare_lost(worker.id)
            worker.heartbeat.renew()
            gate.open()
            assert gone.wait(10)
        record = RunRecord.objects.get(pk=run.pk)
        assert record.status in ("running", "error")  # the heartbeat thread polls each second
        recovery.recover_runs()
        assert assert_consistent(run).error["code"] == "worker_lost"


class TestChildren:
    def test_are_not_started_below_a_run_of_a_lost_worker(
        self, held: ActiveRun, alice: User
    ) -> None:
        @agent("child")
        async def child(tools: Tools) -> None: ...

        declare_lost(held.worker)
        with pytest.raises(ParentIsStopping):
            starting.start_child(held, "child", {})
        assert RunRecord.objects.count() == 1
        stops.refresh_claim(held)
        assert held.token.cause is StopCause.SHUTDOWN


class TestTheLease:
    @pytest.fixture
    def frozen(self, hire: Any, options: Any, monkeypatch: Any) -> Worker:
        """A worker that was frozen: none of its threads has noticed how late it is."""
        options(LEASE_SECONDS=60)
        worker: Worker = hire()
        monkeypatch.setattr(worker.heartbeat, "fence_if_late", lambda: None)
        monkeypatch.setattr(worker.heartbeat, "renew", lambda: None)
        return worker

    @pytest.mark.parametrize("in_cleanup", [False, True])
    def test_admits_no_call_after_its_end(
        self, frozen: Worker, start: Start, log: Journal, in_cleanup: bool
    ) -> None:
        gate = Gate()
        passed: list[str] = []

        @agent("calls")
        async def calls(tools: Tools) -> None:
            await gate.wait()
            if in_cleanup:
                async with cleanup(30):
                    await tools.data_store.set("x", 1)
            else:
                await tools.data_store.set("x", 1)
            passed.append("a call")

        run = start("calls")
        gate.until_arrived()
        entry = local_runs.get(run.pk)
        assert entry is not None
        assert entry.token.lease is frozen.heartbeat.lease
        frozen.heartbeat.lease.until = time.monotonic()
        assert not entry.token.stopped
        gate.open()
        record = log.over(run)
        assert passed == []
        assert not DataStoreEntry.objects.exists()
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")
        assert "could not renew its lease" in record.error["message"]

    def test_allows_no_claim_after_its_end(
        self, frozen: Worker, start: Start, log: Journal
    ) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> None: ...

        frozen.heartbeat.lease.end()
        run = start("quick")
        assert frozen.claim_loop.claim_some() is False
        assert RunRecord.objects.get(pk=run.pk).status == Status.QUEUED
        frozen.heartbeat.start_lease(time.monotonic())
        frozen.wake()
        assert log.over(run).status == Status.SUCCESS

    def test_that_is_renewed_too_late_is_a_new_one(
        self, hire: Any, options: Any, start: Start, log: Journal
    ) -> None:
        """Undetected, the late renewal still ends the older runs; later runs are not affected."""
        options(LEASE_SECONDS=60)
        gate = Gate()

        @agent("waits")
        async def waits(tools: Tools, wait: bool) -> None:
            if wait:
                await gate.wait()
            await tools.data_store.get("x")

        worker: Worker = hire()
        run = start("waits", wait=True)
        gate.until_arrived()
        worker.heartbeat.lease.end()
        worker.heartbeat.renew()
        assert not worker.is_fenced
        gate.open()
        assert log.over(run).error["code"] == "worker_lost"
        assert log.over(start("waits", wait=False)).status == Status.SUCCESS

    def test_of_a_called_agent_is_its_callers(
        self, frozen: Worker, start: Start, log: Journal
    ) -> None:
        found: list[Any] = []

        @agent("child")
        async def child(tools: Tools) -> None:
            found.extend(entry.token.lease for entry in local_runs.all_runs())

        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.call("child")

        log.over(start("caller"))
        assert found == [frozen.heartbeat.lease] * 2


def test_a_workers_own_stop_precedes_the_end_of_its_lease(
    hire: Any, options: Any, start: Start, log: Journal
) -> None:
    options(LEASE_SECONDS=60)
    worker: Worker = hire()
    assert worker.heartbeat.lease.until - time.monotonic() < 60 - 1.5
    assert worker.heartbeat.lease.until - time.monotonic() > 60 - 10


@pytest.mark.parametrize("who_first", ["old", "new"])
def test_an_attempt_that_unwinds_late_does_not_affect_the_next_one(
    hire: Callable[..., Worker],
    options: Callable[..., None],
    start: Start,
    log: Journal,
    who_first: str,
) -> None:
    options(LEASE_SECONDS=1.5)
    gates = [Gate(), Gate()]
    attempts = iter((0, 1))

    @agent("again", on_worker_loss="requeue", max_attempts=3)
    async def again(tools: Tools) -> str:
        attempt = next(attempts)
        try:
            await gates[attempt].wait()
            tools.log(f"attempt {attempt}")
            await tools.data_store.set("attempt", attempt)
        except BaseException:  # which agents must not do
            pass
        return f"by attempt {attempt}"

    worker = hire()
    run = start("again")
    gates[0].until_arrived()
    WorkerRecord.objects.filter(pk=worker.id).update(lost_at=timezone.now())
    recovery.recover_runs()  # the heartbeat may have done it
    gates[1].until_arrived()  # the same process, as another worker

    first, second = gates if who_first == "old" else reversed(gates)
    first.open()
    if who_first == "old":
        eventually(lambda: worker.executor.root_count == 1, "the first attempt has ended")
    else:
        log.over(run)
    second.open()
    log.over(run)
    record = assert_consistent(run)
    assert (record.status, record.attempt) == ("success", 2)
    assert record.result == "by attempt 1"


class TestTheRecorder:
    """A worker that was declared lost writes nothing, also before its runs are recovered."""

    @on_both_databases
    @pytest.mark.parametrize("loss", TestTheDataStore.LOSSES)
    @pytest.mark.parametrize("is_ending", [False, True])
    def test_writes_nothing_under_a_lost_claim(
        self, held: ActiveRun, loss: str, is_ending: bool
    ) -> None:
        event = Event(str(held.id), 1, timezone.now(), "log", "t", 0, "agent", {"message": "late"})
        updates = Updates(
            held.id,
            held.worker,
            held.attempt,
            [event],
            last_seq=1,
            in_flight=[],
            usage=Usage(llm_calls=1, input_tokens=5),
        )
        if is_ending:
            updates.ending = Ending(Outcome("success", result="late"), None, 0, 0)
        TestTheDataStore.LOSSES[loss](held)
        before = RunRecord.objects.filter(pk=held.id).values().get()
        recorded = record_updates([updates])
        assert held.id in recorded.gone
        assert RunRecord.objects.filter(pk=held.id).values().get() == before
        assert not RunRecord.objects.get(pk=held.id).events.exists()
