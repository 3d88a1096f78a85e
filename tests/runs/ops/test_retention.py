"""Old runs and logs go as whole trees, a little at a time, and nothing else does."""

from __future__ import annotations

import io
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import Tools, agent
from runs.events import append, system_event
from runs.models import DataStoreEntry, RunEvent, RunInput, RunRecord
from runs.ops import retention
from runs.ops.retention import Policy, Sweep
from runs.status import Status
from runs.worker.retention import Retention
from runs.worker.worker import Worker
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker
from tests.support.running import Start
from tests.support.server import eventually

on_both = pytest.mark.usefixtures("on_both_databases")


def _aged(owner: User, days: float, events: int = 3, **fields: Any) -> RunRecord:
    """Insert a run that ended so many days ago, with a log."""
    ended = timezone.now() - timedelta(days=days)
    given = {"status": Status.SUCCESS, "created_at": ended - timedelta(hours=1), **fields}
    if given["status"] not in (Status.QUEUED, Status.RUNNING):
        given.setdefault("finished_at", ended)
    run = make_run(owner, last_seq=events, **given)
    append(system_event(run, seq, "log", {"message": "x"}) for seq in range(1, events + 1))
    return run


def _sweep(what: Any, days: float = 30, **options: Any) -> Sweep:
    policy = {
        name: options.pop(name) for name in ("statuses", "agent", "owner_id") & options.keys()
    }
    before = timezone.now() - timedelta(days=days)
    sweep = Sweep(Policy(what, before, **policy), **options)
    while sweep.step():
        pass
    return sweep


def _left() -> set[Any]:
    runs = set(RunRecord.objects.values_list("pk", flat=True))
    assert set(RunInput.objects.values_list("pk", flat=True)) == runs
    assert set(RunEvent.objects.values_list("run", flat=True)) <= runs
    return runs


@on_both
class TestRuns:
    def test_that_ended_long_ago_go_with_all_that_is_theirs(self, alice: User) -> None:
        old, young = _aged(alice, 31), _aged(alice, 29)
        child = _aged(alice, 31, parent=old)
        grandchild = _aged(alice, 31, parent=child)
        DataStoreEntry.objects.create(owner=alice, namespace="default", key="k", value=1)
        sweep = _sweep("runs")
        assert _left() == {young.pk}
        assert RunEvent.objects.count() == 3
        assert DataStoreEntry.objects.count() == 1
        removed = sweep.removed
        assert (removed.trees, removed.runs, removed.events) == (1, 3, 9)
        assert grandchild.root_id == old.pk

    def test_stay_while_any_of_their_tree_goes_on(self, alice: User) -> None:
        """By the rules there is none below a root that is over; a bug must not cost a log."""
        root = _aged(alice, 99)
        going_on = make_run(alice, status=Status.RUNNING, worker=make_worker(), parent=root)
        running = _aged(alice, 99, status=Status.RUNNING, worker=make_worker())
        queued = _aged(alice, 99, status=Status.QUEUED)
        for what in ("runs", "logs"):
            sweep = _sweep(what)
            assert sweep.removed.runs == 0
        assert _left() == {root.pk, going_on.pk, running.pk, queued.pk}
        assert not RunRecord.objects.exclude(log_removed_at=None).exists()

    def test_go_by_their_root_s_end_and_not_by_their_birth(self, alice: User) -> None:
        long = _aged(alice, 1, created_at=timezone.now() - timedelta(days=90))
        _sweep("runs")
        assert _left() == {long.pk}

    def test_can_be_chosen(self, alice: User, bob: User) -> None:
        success, error = _aged(alice, 99), _aged(alice, 99, status=Status.ERROR)
        other, bobs = _aged(alice, 99, agent="other"), _aged(bob, 99)
        _sweep("runs", statuses=["error"])
        assert _left() == {success.pk, other.pk, bobs.pk}
        _sweep("runs", agent="other")
        assert _left() == {success.pk, bobs.pk}
        _sweep("runs", owner_id=bob.pk)
        assert _left() == {success.pk}
        assert error.pk not in _left()

    def test_are_only_counted_when_it_is_dry(self, alice: User) -> None:
        _aged(alice, 99, parent=_aged(alice, 99))
        for what, trees in (("runs", 1), ("logs", 1)):
            sweep = _sweep(what, is_dry=True)
            assert (sweep.removed.trees, sweep.removed.runs, sweep.removed.events) == (trees, 2, 6)
        assert RunEvent.objects.count() == 6

    def test_go_in_small_steps_that_cost_the_same_each(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "PAGE_COUNT", 7)
        monkeypatch.setattr(retention, "EVENTS_AT_ONCE", 10)
        kept = {_aged(alice, 1).pk for _ in range(5)}
        for _ in range(25):
            _aged(alice, 60)
        sweep = Sweep(Policy("runs", timezone.now() - timedelta(days=30)), batch_count=4)
        costs = []
        is_more = True
        while is_more:
            before = sweep.removed.trees
            with CaptureQueriesContext(connection) as queries:
                is_more = sweep.step()
            costs.append(len(queries))
            assert sweep.removed.trees - before <= 4
        assert max(costs) < 25, "transactions included"
        assert _left() == kept


@on_both
class TestLogs:
    def test_go_alone_and_the_record_says_so(self, alice: User) -> None:
        old = _aged(alice, 31, result="kept")
        child = _aged(alice, 31, parent=old)
        young = _aged(alice, 29)
        sweep = _sweep("logs")
        assert sweep.removed.events == 6
        assert _left() == {old.pk, child.pk, young.pk}
        assert set(RunEvent.objects.values_list("run", flat=True)) == {young.pk}
        for run in (old, child):
            run.refresh_from_db()
            assert run.log_removed_at is not None
            assert run.last_seq == 3
        assert old.result == "kept"
        assert _sweep("logs").removed.runs == 0, "once"

    def test_of_one_run_go_as_a_whole(self, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed in the middle, it leaves a log or none."""
        monkeypatch.setattr(retention, "EVENTS_AT_ONCE", 5)
        runs = [_aged(alice, 99, events=count) for count in (20, 3, 2, 4)]
        update = retention._remove_logs
        calls = []

        def dies(ids: Any) -> Any:
            if len(calls) == 2:
                raise OperationalError("gone")
            calls.append(len(ids))
            return update(ids)

        monkeypatch.setattr(retention, "_remove_logs", dies)
        with pytest.raises(OperationalError):
            _sweep("logs")
        for run in runs:
            run.refresh_from_db()
            count = RunEvent.objects.filter(run=run).count()
            assert count == (0 if run.log_removed_at else run.last_seq)
        assert calls == [1, 2]
        monkeypatch.setattr(retention, "_remove_logs", update)
        _sweep("logs")
        assert not RunEvent.objects.exists()


@pytest.mark.postgres
class TestOthers:
    def test_who_hold_a_run_are_not_waited_for(self, alice: User) -> None:
        held, child, free = _aged(alice, 99), None, _aged(alice, 99)
        child = _aged(alice, 99, parent=held)
        is_held, may_go = threading.Event(), threading.Event()

        def hold() -> None:
            with transaction.atomic():
                RunRecord.objects.select_for_update(no_key=True).get(pk=child.pk)
                is_held.set()
                may_go.wait(30)
            connection.close()

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert is_held.wait(10)
            sweep = _sweep("runs")
            assert _left() == {held.pk, child.pk}
            assert sweep.resume is not None
            assert sweep.resume[0] < held.created_at, "it is for a later one"
        finally:
            may_go.set()
            holder.join(10)
        _sweep("runs")
        assert _left() == set()
        assert free.pk not in _left()

    @pytest.mark.parametrize("which", ["root", "child"])
    def test_who_hold_a_run_do_not_save_its_log(self, alice: User, which: str) -> None:
        root = _aged(alice, 99)
        child = _aged(alice, 99, parent=root)
        is_held, may_go = threading.Event(), threading.Event()

        def hold() -> None:
            with transaction.atomic():
                held = {"root": root, "child": child}[which]
                RunRecord.objects.select_for_update(no_key=True).get(pk=held.pk)
                is_held.set()
                may_go.wait(30)
            connection.close()

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert is_held.wait(10)
            sweep = _sweep("logs")
            assert sweep.removed.trees == 0
            assert sweep.resume is not None
            assert sweep.resume[0] < root.created_at, "it is for a later one"
        finally:
            may_go.set()
            holder.join(10)
        _sweep("logs")
        assert not RunEvent.objects.exists()

    def test_who_sweep_as_well_share_the_work(self, alice: User) -> None:
        for _ in range(40):
            _aged(alice, 99, events=5)
        sweeps: list[Sweep] = []

        def sweep() -> None:
            sweeps.append(_sweep("runs", batch_count=5))
            connection.close()

        threads = [threading.Thread(target=sweep) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        _sweep("runs")
        assert _left() == set()
        assert sum(one.removed.events for one in sweeps) == 200

    def test_one_process_at_a_time_keeps_order(self, alice: User) -> None:
        _aged(alice, 99)
        before = timezone.now() - timedelta(days=30)
        ours = Sweep(Policy("runs", before), is_alone=True)
        is_held, may_go = threading.Event(), threading.Event()

        def hold() -> None:
            with transaction.atomic():
                assert ours._may_go_on()
                is_held.set()
                may_go.wait(30)
            connection.close()

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert is_held.wait(10)
            while ours.step():
                pass
            assert ours.removed.runs == 0
        finally:
            may_go.set()
            holder.join(10)
        ours.position = ours.resume
        while ours.step():
            pass
        assert _left() == set()

    def test_pages_are_read_by_an_index(self, alice: User) -> None:
        for days in range(60):
            _aged(alice, days, events=0)
        at = RunRecord.objects.order_by("created_at")[10]
        with (
            CaptureQueriesContext(connection) as queries,
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_sort = off")
            retention._page((at.created_at, at.pk), timezone.now())
            sql = queries.captured_queries[-1]["sql"]
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(row[0] for row in cursor.fetchall())
        assert "Index Scan Backward using run_newest" in plan
        (condition,) = [line for line in plan.splitlines() if "Index Cond" in line]
        assert condition.count("created_at") == 2, "both ends"


@on_both
class TestRetention:
    def test_keeps_for_ever_if_nothing_is_said(self, alice: User) -> None:
        _aged(alice, 9_999)
        assert not Retention().tick()
        assert len(_left()) == 1

    def test_goes_on_where_nothing_is_left_to_do(
        self, alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.RUNS = {**settings.RUNS, "KEEP_DAYS": 60, "KEEP_LOGS_DAYS": 30}
        oldest = _aged(alice, 70)
        gone = [_aged(alice, 45) for _ in range(3)]
        looked: list[Any] = []
        page = retention._page
        monkeypatch.setattr(
            retention, "_page", lambda after, before: looked.append(after) or page(after, before)
        )
        periodic = Retention()
        while periodic.tick():
            pass
        assert oldest.pk not in _left()
        assert all(RunRecord.objects.get(pk=run.pk).log_removed_at for run in gone)
        looked.clear()
        young = _aged(alice, 40)
        while periodic.tick():
            pass
        assert looked[-1] is not None
        assert RunRecord.objects.get(pk=young.pk).log_removed_at is not None

    def test_works_in_a_worker_while_runs_go_on(
        self,
        alice: User,
        settings: Any,
        start: Start,
        log: Journal,
    ) -> None:
        settings.RUNS = {**settings.RUNS, "KEEP_DAYS": 30}
        old = [_aged(alice, 99) for _ in range(3)]

        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        worker = Worker()
        worker.start_threads()
        try:
            run = log.over(start("quick"))
            eventually(
                lambda: not RunRecord.objects.filter(pk__in=[one.pk for one in old]).exists(),
                "the old ones are gone",
            )
        finally:
            worker.stop_threads()
        assert _left() == {run.pk}
        assert not [t for t in threading.enumerate() if t.name == "runs-retention"]


@on_both
class TestCommand:
    def call(self, *arguments: str) -> str:
        out = io.StringIO()
        call_command("delete_old_runs", *arguments, "--pause=0", stdout=out)
        return out.getvalue()

    def test_says_what_it_has_done(self, alice: User) -> None:
        _aged(alice, 99, parent=_aged(alice, 99))
        middle = _aged(alice, 50)
        said = self.call("--older-than", "90d", "--logs-older-than", "30d", "--dry-run")
        assert "2 runs (1 with those below them), 6 events: would be removed" in said
        said = self.call("--older-than", "90d", "--logs-older-than", "30d")
        assert "2 runs (1 with those below them), 6 events: removed" in said
        assert "the logs of 1 runs, 3 events: removed" in said
        assert _left() == {middle.pk}

    def test_takes_what_is_chosen(self, alice: User, bob: User) -> None:
        User.objects.filter(pk=bob.pk).update(is_active=False)
        kept = _aged(bob, 99, status=Status.ERROR)
        _aged(bob, 99, status=Status.STOPPED)
        other = _aged(alice, 99)
        self.call("--older-than", "2w", "--status", "success,stopped", "--owner", "bob")
        assert _left() == {kept.pk, other.pk}

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("--older-than", "90"),
            ("--older-than", "-1d"),
            ("--older-than", "999999w"),
            ("--older-than", "1d", "--status", "running"),
            ("--older-than", "1d", "--batch-size", "0"),
            ("--older-than", "1d", "--owner", "nobody"),
        ],
    )
    def test_refuses_what_it_does_not_understand(
        self, alice: User, arguments: tuple[str, ...]
    ) -> None:
        run = _aged(alice, 99)
        with pytest.raises(CommandError):
            self.call(*arguments)
        assert _left() == {run.pk}
