"""A stop that the database refuses is an error, and leaves nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections

from agents import Tools, agent
from runs.actions.stopping import request_stop
from runs.delivery import local_runs
from runs.models import RunEvent, RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_run
from tests.support.running import Start


def _refuse(*_: Any) -> None:
    raise OperationalError("the database is away")


@pytest.mark.usefixtures("endless", "on_both_databases")
class TestRefusedStatement:
    """Whichever statement fails: the answer is an error, and no write is left."""

    @pytest.fixture
    def running(self, worker: Worker, start: Start, log: Journal) -> RunRecord:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.call("endless")

        run = start("caller")
        log.until_event_of_agent("endless", "log")
        return run

    def _is_untouched(self, run: RunRecord) -> None:
        assert not RunRecord.objects.filter(stop_requested_at__isnull=False).exists()
        assert not RunEvent.objects.filter(type="stop_requested").exists()
        for entry in local_runs.all_runs():
            assert not entry.token.stopped

    def test_anywhere_in_a_stop_leaves_nothing_of_it(
        self, running: RunRecord, stop: Any, log: Journal
    ) -> None:
        failures = 0
        for failing in range(30):
            seen = 0

            def refuse(execute: Any, *arguments: Any, failing: int = failing) -> Any:
                nonlocal seen
                seen += 1
                if seen > failing:
                    raise OperationalError("the database is away")
                return execute(*arguments)

            with connection.execute_wrapper(refuse):
                try:
                    stop(running)
                    break
                except OperationalError:
                    failures += 1
            if RunRecord.objects.get(pk=running.pk).stop_requested:
                break  # committed; only reading the answer failed
            self._is_untouched(running)
        else:
            pytest.fail("the stop never succeeded")
        assert failures >= 3
        record = log.over(running)
        assert record.status == Status.STOPPED
        assert_consistent(running)

    def test_in_the_commit_leaves_nothing_of_the_stop(
        self, running: RunRecord, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = connections["default"]  # the worker's threads have other connections
        with monkeypatch.context() as patch:
            patch.setitem(here.__dict__, "_commit", partial(_refuse, here))
            with pytest.raises(OperationalError):
                stop(running)
        self._is_untouched(running)
        stop(running)
        assert log.over(running).status == Status.STOPPED

    def test_in_the_stop_of_a_queued_run_leaves_it_queued(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(alice)
        for failing in ("UPDATE", "INSERT"):

            def refuse(execute: Any, sql: str, *arguments: Any, failing: str = failing) -> Any:
                if sql.startswith(failing):
                    raise OperationalError("the database is away")
                return execute(sql, *arguments)

            with connection.execute_wrapper(refuse), pytest.raises(OperationalError):
                request_stop(run.pk, via="api", by=alice)
            run.refresh_from_db()
            assert (run.status, run.stop_requested) == (Status.QUEUED, False)
            assert not RunEvent.objects.exists()


def test_a_read_only_database_stops_nothing(
    endless: None, worker: Worker, start: Start, stop: Any, log: Journal
) -> None:
    switch = "PRAGMA query_only = {}"
    if connection.vendor == "postgresql":
        switch = "SET default_transaction_read_only = {}"
    run = start("endless")
    log.until_event(run, "log")
    with connection.cursor() as cursor:
        cursor.execute(switch.format("on"))
    try:
        with pytest.raises(Exception, match=r"read-?only"):
            stop(run)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(switch.format("off"))
    assert not local_runs.get(run.pk).token.stopped  # type: ignore[union-attr]
    assert not RunRecord.objects.get(pk=run.pk).stop_requested
    stop(run)
    assert log.over(run).status == Status.STOPPED
