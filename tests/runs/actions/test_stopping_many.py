"""A bulk stop: one outcome for each run, and few statements for all of them."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agents import Tools, agent
from runs.actions import stopping
from runs.actions.stopping import BulkOutcome, request_stop, stop_many
from runs.delivery import local_runs
from runs.exceptions import (
    RunAlreadyFinished,
)
from runs.models import RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker, requested
from tests.support.running import Start, together


class TestStopOfMany:
    def test_has_one_outcome_each_in_the_order_given(
        self, alice: User, bob: User, operator: User
    ) -> None:
        worker = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
        queued, running, stopping = make_run(alice), make(), make(**requested(alice))
        over, hidden = make_run(alice, status=Status.SUCCESS), make_run(bob)
        missing = uuid.uuid4()
        ids = [over.pk, missing, running.pk, hidden.pk, queued.pk, stopping.pk, running.pk]
        outcomes = stop_many(ids, by=alice, via="api", reason="all of it")
        assert outcomes == [
            BulkOutcome(str(over.pk), "already_finished"),
            BulkOutcome(str(missing), "not_found"),
            BulkOutcome(str(running.pk), "accepted"),
            BulkOutcome(str(hidden.pk), "not_found"),
            BulkOutcome(str(queued.pk), "accepted"),
            BulkOutcome(str(stopping.pk), "already_stopping"),
        ]
        assert assert_consistent(queued).stop_reason == "all of it"
        running.refresh_from_db()
        assert running.shown_status == "stopping"
        hidden.refresh_from_db()
        assert not hidden.stop_requested

    def test_makes_as_many_queries_for_many_queued_runs_as_for_two(self, alice: User) -> None:
        def count(runs: int) -> int:
            ids = [make_run(alice).pk for _ in range(runs)]
            with CaptureQueriesContext(connection) as queries:
                stop_many(ids, by=alice, via="api")
            return len(queries)

        count(2)  # caches are warm
        assert count(20) == count(2)

    def test_reports_runs_that_the_user_may_see_but_not_stop(self, alice: User, bob: User) -> None:
        bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
        mine, theirs = make_run(bob), make_run(alice)
        outcomes = stop_many([mine.pk, theirs.pk], by=bob, via="api")
        assert [o.outcome for o in outcomes] == ["accepted", "not_permitted"]
        theirs.refresh_from_db()
        assert not theirs.stop_requested

    def test_of_no_runs_does_nothing(self, alice: User) -> None:
        assert stop_many([], by=alice, via="api") == []

    @pytest.mark.usefixtures("on_both_databases")
    def test_needs_as_many_statements_for_any_number_of_runs(
        self, alice: User, django_assert_max_num_queries: Any
    ) -> None:
        worker = make_worker()
        for count in (3, 40):
            make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
            roots = [make() for _ in range(count)]
            for root in roots:
                make(parent=make(parent=root))
            with django_assert_max_num_queries(count + 15):  # one UPDATE per root of a tree
                outcomes = stop_many([r.pk for r in roots], by=alice, via="api")
            assert {o.outcome for o in outcomes} == {"accepted"}
        assert not RunRecord.objects.filter(stop_requested_at=None).exists()
        assert set(RunRecord.objects.filter(depth=2).values_list("stop_via", flat=True)) == {
            "parent"
        }

    def test_may_have_more_runs_than_one_transaction(self, alice: User) -> None:
        runs = [make_run(alice) for _ in range(12)]
        stopping._CHUNK, chunk = 5, stopping._CHUNK
        try:
            outcomes = stop_many([r.pk for r in runs], by=alice, via="api")
        finally:
            stopping._CHUNK = chunk
        assert [o.outcome for o in outcomes] == ["accepted"] * 12
        assert_all_consistent()

    def test_may_name_a_run_and_its_descendants(self, alice: User) -> None:
        worker = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
        root = make()
        child = make(parent=root)
        leaf = make(parent=child)
        by_itself = make(parent=root, **requested(alice, stop_reason="mine"))
        RunRecord.objects.filter(pk=by_itself.pk).update(stop_root_request=by_itself.pk)
        outcomes = stop_many([leaf.pk, root.pk], by=alice, via="api", reason="all")
        assert {o.outcome for o in outcomes} == {"accepted"}
        for run in (root, child, leaf, by_itself):
            run.refresh_from_db()
        assert (child.stop_via, child.stop_root_request) == ("parent", root.pk)
        assert (leaf.stop_via, leaf.stop_root_request) == ("api", leaf.pk)
        assert (by_itself.stop_reason, by_itself.stop_root_request) == ("mine", by_itself.pk)

    @pytest.mark.usefixtures("on_both_databases")
    def test_trips_all_tokens_before_it_returns(
        self, endless: None, worker: Worker, alice: User, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await asyncio.gather(*[tools.agents.call("endless") for _ in range(3)])

        runs = [start("caller") for _ in range(5)]
        log.until(lambda: sum(e.type == "log" for e in log.events) == 15, "the children")
        entries = local_runs.all_runs()
        assert len(entries) == 20
        stop_many([run.pk for run in runs], by=alice, via="admin", reason="all")
        assert all(entry.token.stopped for entry in entries)
        log.until_over(*runs)
        assert {r.status for r in assert_all_consistent()} == {Status.STOPPED}

    @pytest.mark.usefixtures("on_both_databases")
    def test_causes_no_deadlock_with_other_bulk_stops(
        self, endless: None, worker: Worker, alice: User, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await asyncio.gather(*[tools.agents.call("endless") for _ in range(4)])

        runs = [start("caller") for _ in range(12)]
        log.until(lambda: sum(e.type == "log" for e in log.events) >= 24, "half of the children")
        ids = [run.pk for run in runs]
        many = partial(stop_many, by=alice, via="api")
        answers = together(
            partial(many, ids),
            partial(many, ids[::-1]),
            partial(many, ids[::2]),
            *[partial(request_stop, id, by=alice, via="page") for id in ids[::3]],
        )
        errors = [a for a in answers if isinstance(a, Exception)]
        assert not [e for e in errors if not isinstance(e, RunAlreadyFinished)]
        log.until_over(*runs)
        assert_all_consistent()
