"""Quotas of owners: what is refused, what never is, and how usage follows the records."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import AgentError, Tools, agent, registry
from agents.exceptions import QuotaExceeded as AgentQuotaExceeded
from runs.actions import starting
from runs.db.threads import DatabaseThreads
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import QuotaExceeded
from runs.models import DataStoreEntry, OwnerUsage, RunRecord
from runs.ops.retention import Policy, Sweep
from runs.quotas import keeper, ledger, queued
from runs.quotas.reading import quotas_of
from runs.status import Status
from runs.worker.data_store import OwnerStore
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, Start, in_thread
from tests.support.server import eventually

pytestmark = pytest.mark.django_db(transaction=True)
on_both_databases = pytest.mark.usefixtures("on_both_databases")

Options = Callable[..., None]


@pytest.fixture
def agents() -> Gate:
    gate = Gate()

    @agent("echo")
    async def echo(tools: Tools, text: str = "") -> str:
        return text

    @agent("writer")
    async def writer(tools: Tools, size: int = 1_000) -> str:
        await gate.wait()
        tools.log("x" * size)
        return "y" * size

    @agent("parent")
    async def parent(tools: Tools, how: str = "call") -> str:
        try:
            if how == "call":
                await tools.agents.call("echo", {"text": "z" * 5_000})
            else:
                await tools.agents.start("echo", {"text": "z" * 5_000})
        except AgentQuotaExceeded as error:
            return f"{error.code}: {error}"
        return "started"

    return gate


def fill(owner: User, stored_bytes: int, keys_count: int = 0) -> None:
    """Let an owner have used so much."""
    ledger.flush()
    rows = OwnerUsage.objects
    values = {"stored_bytes": stored_bytes, "keys_count": keys_count}
    rows.update_or_create(owner=owner, defaults=values)
    ledger.forget()


def code_of(work: Callable[[], Any]) -> str:
    with pytest.raises(QuotaExceeded) as refused:
        work()
    return refused.value.code


class TestStarts:
    @on_both_databases
    def test_beyond_a_quota_are_refused_and_leave_nothing(
        self, start: Start, alice: User, bob: User, options: Options, agents: Gate
    ) -> None:
        options(MAX_QUEUED_PER_OWNER=2)
        start("echo")
        start("echo")
        assert code_of(lambda: start("echo")) == "quota_queued"
        before = ledger.usage(alice.pk)
        assert code_of(lambda: start("echo")) == "quota_queued"
        assert ledger.usage(alice.pk) == before  # what was noted was taken back
        assert RunRecord.objects.count() == 2
        start("echo", owner=bob)
        options(MAX_QUEUED_PER_OWNER=0)
        start("echo")

    def test_have_room_again_when_a_run_has_left_the_queue(
        self, start: Start, stop: Any, options: Options, agents: Gate
    ) -> None:
        options(MAX_QUEUED_PER_OWNER=1)
        first = start("echo")
        assert code_of(lambda: start("echo")) == "quota_queued"
        stop(first)  # is never refused
        start("echo")

    def test_say_how_much_is_used_and_allowed(
        self, start: Start, alice: User, options: Options, agents: Gate
    ) -> None:
        options(MAX_STORED_BYTES_PER_OWNER=100_000)
        fill(alice, 99_500)
        with pytest.raises(QuotaExceeded, match="99,500 of 100,000 bytes") as refused:
            start("echo")
        error = refused.value
        assert (error.code, error.used, error.allowed) == ("quota_stored", 99_500, 100_000)
        assert error.retry_seconds is None  # waiting alone does not help

    @pytest.mark.parametrize("quota", ["MAX_QUEUED_PER_OWNER", "MAX_STORED_BYTES_PER_OWNER"])
    def test_that_repeat_a_key_are_never_refused(
        self, alice: User, options: Options, agents: Gate, quota: str
    ) -> None:
        run, _ = starting.start_run("echo", {}, owner=alice, idempotency_key="k")
        ledger.flush()
        options(**{quota: 1})
        again, is_new = starting.start_run("echo", {}, owner=alice, idempotency_key="k")
        assert (again.pk, is_new) == (run.pk, False)

    def test_that_repeat_a_key_at_the_same_moment_are_not_refused(
        self, alice: User, options: Options, agents: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first one takes the last place after the second one has looked for its key."""
        options(MAX_QUEUED_PER_OWNER=1)
        known = starting._known
        answers: list[Any] = []

        def look_before_the_other(run: RunRecord) -> Any:
            found = known(run)
            answers.append(found)
            if len(answers) == 1:
                monkeypatch.setattr(starting, "_known", known)
                answers.append(starting.start_run("echo", {}, owner=alice, idempotency_key="k"))
            return found

        monkeypatch.setattr(starting, "_known", look_before_the_other)
        again, is_new = starting.start_run("echo", {}, owner=alice, idempotency_key="k")
        assert answers[0] is None
        assert answers[1] == (again, True)
        assert not is_new

    def test_far_below_the_quota_ask_the_database_nothing_more(
        self, start: Start, options: Options, agents: Gate
    ) -> None:
        def statements() -> int:
            with CaptureQueriesContext(connection) as captured:
                start("echo")
            return len(captured)

        start("echo")
        with_quotas = statements()
        options(
            MAX_QUEUED_PER_OWNER=0, MAX_STORED_BYTES_PER_OWNER=0, MAX_DATA_STORE_KEYS_PER_OWNER=0
        )
        assert with_quotas == statements()

    def test_near_the_quota_count_each_time(
        self, start: Start, options: Options, agents: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queued, "NEAR", 3)
        options(MAX_QUEUED_PER_OWNER=6)
        for _ in range(6):
            start("echo")
        assert code_of(lambda: start("echo")) == "quota_queued"

    @pytest.mark.parametrize("how", ["call", "start"])
    def test_below_a_run_raise_an_error_there(
        self, start: Start, alice: User, options: Options, hire: Any, log: Journal, agents: Gate,
        how: str,
    ) -> None:  # fmt: skip
        options(MAX_STORED_BYTES_PER_OWNER=100_000)
        run = start("parent", how=how)
        fill(alice, 97_000)
        hire()
        (ended,) = log.until_over(run)
        assert ended.status == Status.SUCCESS
        assert ended.result.startswith("quota_stored: The agent echo can't be started. ")
        assert RunRecord.objects.count() == 1

    def test_below_a_run_keep_to_the_queue(
        self, start: Start, alice: User, options: Options, hire: Any, log: Journal, agents: Gate
    ) -> None:
        run = start("parent", how="start")
        make_run(alice, agent="waits", queue_until=None, priority=-100)
        options(MAX_QUEUED_PER_OWNER=1)

        with registry.isolated():

            @agent("waits", max_concurrent=1)
            async def waits(tools: Tools) -> None: ...

            make_run(alice, agent="waits", status=Status.RUNNING, worker=make_worker())
            hire()
            (ended,) = log.until_over(run)
        assert ended.result.startswith(
            "quota_queued: The agent echo can't be started. 1 of at most 1 "
        )


class TestRunsInFlight:
    def test_keep_result_and_ending(
        self, start: Start, alice: User, options: Options, hire: Any, log: Journal, agents: Gate
    ) -> None:
        options(MAX_STORED_BYTES_PER_OWNER=100_000)
        run = start("writer", size=30_000)
        hire()
        agents.until_arrived()
        fill(alice, 90_000)
        agents.open()
        (ended,) = log.until_over(run)
        assert (ended.status, ended.result) == (Status.SUCCESS, "y" * 30_000)
        assert ledger.is_full(alice.pk)
        assert code_of(lambda: start("echo")) == "quota_stored"

    def test_have_a_truncated_event_that_names_the_quota(
        self, start: Start, alice: User, bob: User, options: Options, hire: Any, log: Journal
    ) -> None:
        gate = Gate()

        @agent("chatty")
        async def chatty(tools: Tools) -> str:
            tools.log("first")
            await gate.wait()
            for number in range(50):
                tools.log(f"line {number}")
            return "the result"

        options(MAX_STORED_BYTES_PER_OWNER=100_000)
        run, other = start("chatty"), start("chatty", owner=bob)
        hire()
        gate.until_arrived(2)
        fill(alice, 100_000)
        trace = starting.local_runs.trace_of(run.pk)
        assert trace is not None
        trace.emit("log", {"level": "info", "message": "one more"})  # after it the recorder knows
        eventually(lambda: trace.cut_by == "quota_stored")
        gate.open()
        ended, others = log.until_over(run, other)
        assert (ended.status, ended.result) == (Status.SUCCESS, "the result")
        events = list(ended.events.order_by("seq").values_list("seq", "type", "data"))
        assert [type for _, type, _ in events[-3:]] == ["log", "truncated", "agent_end"]
        assert events[-2][2] == {"quota": "quota_stored"}
        assert events[-1][2]["events_dropped"] == 50
        assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
        assert others.events.filter(type="log").count() == 51


def _waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(cursor.fetchone()[0])


class TestDataStore:
    @pytest.fixture
    def store(self, start: Start, hire: Any, log: Journal) -> Callable[..., Any]:
        """Let an agent work with its data store; return its result."""

        def work(code: Callable[[Tools], Any]) -> Any:
            @agent("worker-of-the-store")
            async def worker_of_the_store(tools: Tools) -> Any:
                try:
                    return await code(tools)
                except AgentError as error:
                    return [error.code, str(error)]

            run = start("worker-of-the-store")
            hire()
            (ended,) = log.until_over(run)
            return ended.result

        return work

    @on_both_databases
    def test_takes_no_more_keys_than_allowed(
        self, store: Any, options: Options, alice: User
    ) -> None:
        options(MAX_DATA_STORE_KEYS_PER_OWNER=3)

        async def work(tools: Tools) -> Any:
            store = tools.data_store
            await store.set_many({"a": 1, "b": 2, "c": 3})
            await store.set("a", "another value is no other key")
            try:
                await store.set_many({"c": 4, "d": 4})
            except AgentQuotaExceeded as error:
                said = [error.code, error.used, error.allowed]
            await store.delete("a")
            await store.set("d", 4)
            return [said, await store.get_all()]

        assert store(work) == [["quota_keys", 3, 3], {"b": 2, "c": 3, "d": 4}]
        assert ledger.usage(alice.pk).keys_count == 3

    def test_beyond_the_bytes_lets_an_owner_write_less_and_delete(
        self, store: Any, options: Options, alice: User
    ) -> None:
        DataStoreEntry.objects.create(
            owner=alice, namespace="default", key="k", value="x" * 1_000, size_bytes=1_200
        )
        options(MAX_STORED_BYTES_PER_OWNER=200_000)

        async def work(tools: Tools) -> Any:
            await asyncio.to_thread(fill_it)
            return await write_and_delete(tools)

        def fill_it() -> None:
            fill(alice, 300_000, 1)
            connection.close()

        async def write_and_delete(tools: Tools) -> Any:
            store, refused = tools.data_store, []
            for key, value in (("k", "y" * 2_000), ("new", "z")):
                try:
                    await store.set(key, value)
                except AgentQuotaExceeded as error:
                    refused.append(error.code)
            await store.set("k", "less")
            deleted = await store.delete("k")
            return [refused, deleted, await store.clear()]

        assert store(work) == [["quota_stored", "quota_stored"], True, 0]
        assert ledger.usage(alice.pk).keys_count == 0


class TestUsage:
    @on_both_databases
    def test_follows_the_records(self, start: Start, alice: User, hire: Any, log: Journal) -> None:
        @agent("stores")
        async def stores(tools: Tools, text: str) -> dict[str, str]:
            tools.log(text)
            await tools.data_store.set_many({"a": text, "b": text})
            await tools.data_store.set("a", "shorter")
            await tools.data_store.delete("b")
            return {"result": text}

        hire()
        for size in (10, 20_000):
            (ended,) = log.until_over(start("stores", text="ä" * size))
            assert ended.error is None
        ledger.flush()
        row = OwnerUsage.objects.get(owner=alice)
        assert (row.keys_count, row.measured_at) == (1, None)
        assert row.stored_bytes > 3 * 2 * 20_000  # input, log and result
        noted = row.stored_bytes
        keeper.measure()
        row.refresh_from_db()
        assert row.stored_bytes == noted
        assert row.measured_at is not None

    @pytest.mark.postgres
    def test_is_not_too_low_if_an_entry_is_deleted_while_it_is_replaced(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The deletion waits; else the entry would count as replaced, and be new."""
        worker = make_worker()
        run = make_run(alice, status=Status.RUNNING, worker=worker)
        database = DatabaseThreads(2)
        store = OwnerStore(alice.pk, database, ActiveRun(run.pk, worker.pk))
        write = partial(store._under_claim, partial(store._set_many, "n", {"k": 1}, None))
        write()
        gate, deleted = Gate(), threading.Event()
        check = ledger.check

        def check_late(*arguments: Any) -> None:
            check(*arguments)
            gate.wait_here()

        def delete() -> None:
            store._under_claim(partial(store._delete_many, "n", ["k"]))
            deleted.set()

        monkeypatch.setattr(ledger, "check", check_late)
        with in_thread(write) as written:
            gate.until_arrived()
            with in_thread(delete):
                eventually(lambda: deleted.is_set() or _waits_for_a_lock())
                gate.open()
            written()
        database.close()
        assert DataStoreEntry.objects.count() == ledger.usage(alice.pk).keys_count == 0

    @on_both_databases
    def test_goes_down_with_logs_and_runs(
        self, start: Start, alice: User, hire: Any, log: Journal, agents: Gate
    ) -> None:
        hire()
        log.until_over(*[start("echo", text="x" * 10_000) for _ in range(3)])
        before = ledger.usage(alice.pk, fresh_seconds=0).stored_bytes
        for what in ("logs", "runs"):
            sweep = Sweep(Policy(what, timezone.now()))  # type: ignore[arg-type]
            while sweep.step():
                pass
            now = ledger.usage(alice.pk, fresh_seconds=0).stored_bytes
            assert now < before
            before = now
        assert before == 0
        keeper.measure()
        assert ledger.usage(alice.pk, fresh_seconds=0).stored_bytes == 0

    @on_both_databases
    def test_is_corrected_by_a_measurement(self, alice: User, bob: User) -> None:
        make_run(alice, status=Status.SUCCESS, value_bytes=700, log_bytes=50)
        make_run(alice, value_bytes=200)
        DataStoreEntry.objects.create(owner=alice, namespace="n", key="k", size_bytes=50)
        fill(bob, 12_345, 6)  # of a process that was killed before it could add a deletion
        keeper.measure()
        rows = {row.owner_id: row for row in OwnerUsage.objects.all()}
        assert (rows[alice.pk].stored_bytes, rows[alice.pk].keys_count) == (1_000, 1)
        assert (rows[bob.pk].stored_bytes, rows[bob.pk].keys_count) == (0, 0)

    @on_both_databases
    def test_of_a_deleted_user_is_dropped(self, alice: User, bob: User) -> None:
        ledger.add(alice.pk, 100)
        ledger.add(bob.pk, 100)
        alice.delete()
        ledger.flush()
        assert [row.owner_id for row in OwnerUsage.objects.all()] == [bob.pk]
        ledger.flush()
        assert OwnerUsage.objects.get().stored_bytes == 100  # once

    def test_that_cannot_be_written_is_not_lost(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger.add(alice.pk, 100)

        def refuse(*_: object) -> None:
            raise OperationalError("gone")

        with monkeypatch.context() as patch:
            patch.setattr(ledger, "write", refuse)
            with pytest.raises(OperationalError):
                ledger.flush()
        assert ledger.usage(alice.pk).stored_bytes == 100
        ledger.flush()
        assert OwnerUsage.objects.get().stored_bytes == 100

    def test_of_another_process_counts_before_a_start_is_refused(
        self, start: Start, alice: User, options: Options, agents: Gate
    ) -> None:
        options(MAX_STORED_BYTES_PER_OWNER=100_000)
        fill(alice, 100_000)
        assert code_of(lambda: start("echo")) == "quota_stored"
        OwnerUsage.objects.update(stored_bytes=0)  # another process has deleted all
        start("echo")

    def test_is_near_from_four_fifths_on(self, alice: User, options: Options) -> None:
        options(MAX_STORED_BYTES_PER_OWNER=1_000, MAX_DATA_STORE_KEYS_PER_OWNER=0)
        fill(alice, 799)
        assert [quota.is_near for quota in quotas_of(alice.pk)] == [False] * 3
        fill(alice, 800)
        assert [quota.is_near for quota in quotas_of(alice.pk)] == [False, True, False]
        assert [quota.allowed for quota in quotas_of(alice.pk)] == [10_000, 1_000, None]
