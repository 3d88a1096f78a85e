"""A value that the database refuses costs no run its ending, and no other value its place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DataError, OperationalError, connection

from agents.guard import Guard
from agents.runtime import Outcome
from agents.trace import Event, Trace, Usage
from runs import transitions
from runs.actions import recovery, refusals
from runs.actions.finishing import Ended
from runs.delivery.local_runs import ActiveRun
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import recorder as recorder_module
from runs.worker.recorder import Recorder
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.rows import make_run, make_worker

both = pytest.mark.usefixtures("on_both_databases")
NAN = float("nan")
HUGE = 10**5000  # Python refuses to print it


class Run:
    """A claimed run; only its trace is real."""

    def __init__(self, owner: User, worker: WorkerRecord, recorder: Recorder) -> None:
        self.record = make_run(owner, status=Status.RUNNING, worker=worker)
        entry = ActiveRun(self.record.pk, worker.pk)
        self.trace = Trace(str(self.record.pk), "made", recorder)
        entry.guard = Guard(entry.token, self.trace)
        self.recorder = recorder
        self.ends: list[Ended | None] = []
        self._over = threading.Event()
        recorder.open(entry, self.trace)
        self.trace.emit("agent_start")

    def emit(self, data: dict[str, Any], type: str = "log") -> None:
        """Emit an event that the trace has not cleaned."""
        self.trace.last_seq += 1
        now = datetime.now(UTC)
        event = Event(self.trace.run, self.trace.last_seq, now, type, "made", 0, "system", data)
        self.recorder.event(event)

    def end(self, outcome: Outcome) -> Run:
        def on_end(ended: Ended | None) -> None:
            self.ends.append(ended)
            self._over.set()

        self.recorder.end(self.trace, outcome, on_end)
        return self

    def wait(self) -> RunRecord:
        assert self._over.wait(10), "the ending was not written"
        [ended] = self.ends
        assert ended is not None
        self.record.refresh_from_db()
        assert ended == Ended(
            self.record.pk, Status(self.record.status), self.record.result, self.record.error
        )
        return self.record

    @property
    def not_recorded(self) -> Any:
        """What the end of the log says was left out."""
        return self.record.events.get(type="agent_end").data.get("not_recorded")


@pytest.fixture
def writer(transactional_db: None) -> Iterator[Recorder]:
    recorder = Recorder(on_lost=lambda _: None)
    recorder.start()
    yield recorder
    assert recorder.close(), "the recorder did not end"


@pytest.fixture
def make(alice: User, writer: Recorder) -> Callable[[], Run]:
    worker = make_worker()
    return lambda: Run(alice, worker, writer)


def success(result: Any = "done") -> Outcome:
    return Outcome("success", result=result)


@both
class TestUsage:
    @pytest.mark.parametrize("count", [-35, 2**63, 2**200, NAN, "many"])
    def test_that_is_refused_leaves_the_result(self, make: Callable[[], Run], count: Any) -> None:
        run = make()
        run.trace.usage = Usage(1, count, 7)
        record = run.end(success({"answer": 42})).wait()
        assert (record.status, record.result) == (Status.SUCCESS, {"answer": 42})
        assert (record.llm_calls, record.input_tokens, record.output_tokens) == (1, 0, 7)
        assert record.usage_estimated
        assert run.not_recorded == ["input_tokens"]

    def test_that_is_refused_while_the_run_goes_on_is_refused_once(
        self, make: Callable[[], Run], log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = make()
        run.trace.usage = replace(run.trace.usage, output_tokens=-1)
        for n in range(3):
            run.trace.emit("log", {"message": str(n)})
            log.until_event(run.record, "log")
            eventually(
                lambda n=n: RunRecord.objects.get().last_seq == n + 2, "the event is in the record"
            )
        record = run.end(success()).wait()
        assert (record.status, record.output_tokens) == (Status.SUCCESS, 0)
        assert record.usage_estimated
        assert run.not_recorded == ["output_tokens"]
        assert_consistent(record)
        refusals = [r for r in caplog.records if "the database refused" in r.getMessage()]
        assert len(refusals) == 1


class TestAResult:
    @both
    @pytest.mark.parametrize(
        ("result", "partial"),
        [
            ({"n": HUGE, "text": "kept"}, {"n": "<integer of 5,001 digits>", "text": "kept"}),
            ([1, NAN], [1, "NaN"]),
            ([1, {"x": {1, 2}}], [1, {"x": [1, 2]}]),
        ],
    )
    def test_that_is_refused_is_kept_in_part(
        self, make: Callable[[], Run], result: Any, partial: Any
    ) -> None:
        run = make()
        run.trace.emit("log", {"message": "kept"})
        data = {"call": "1", "input_tokens": 3, "output_tokens": 4}
        run.trace.emit("llm_call", data, usage=Usage(1, 3, 4))
        record = run.end(success(result)).wait()
        assert (record.status, record.result) == (Status.ERROR, None)
        assert record.error["code"] == "not_recorded"
        assert "result:" in record.error["message"]
        assert record.partial_result == partial
        assert run.not_recorded == ["result"]
        assert_consistent(record)

    @pytest.mark.postgres  # for SQLite, such a text is as good as any other
    @pytest.mark.parametrize("text", ["a\0b", "half of it: \ud83d"])
    def test_that_only_postgresql_refuses(self, make: Callable[[], Run], text: str) -> None:
        run = make()
        record = run.end(success([text])).wait()
        assert record.error["code"] == "not_recorded"
        assert record.partial_result == [text.replace("\0", "\ufffd").replace("\ud83d", "\ufffd")]

    @both
    def test_that_is_nested_too_deep(self, make: Callable[[], Run]) -> None:
        result: Any = []
        for _ in range(100_000):
            result = [result]
        run = make()
        record = run.end(success(result)).wait()
        assert record.error["code"] == "not_recorded"

    @both
    def test_that_is_not_kept_is_not_counted(self, make: Callable[[], Run]) -> None:
        run = make()
        before = run.record.value_bytes
        record = run.end(success({"of many": [HUGE] * 20})).wait()
        assert record.error["code"] == "not_recorded"
        assert 0 < record.value_bytes - before < 5_000

    @both
    def test_that_breaks_the_connection_is_not_tried_again(
        self, make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PostgreSQL hangs up on a message of a gigabyte."""
        update_rows = transitions.update_rows

        def hang_up(model: Any, condition: str, rows: Any) -> int:
            if any(len(str(values.get("result"))) > 1000 for values, _ in rows):
                raise OperationalError("the connection is closed")
            return update_rows(model, condition, rows)

        monkeypatch.setattr(transitions, "update_rows", hang_up)
        monkeypatch.setattr(refusals, "MOST_BYTES", 1000)
        monkeypatch.setattr(recorder_module, "RETRY_SECONDS", (0.001,))
        large, other = make(), make()
        large.end(success("x" * 2000))
        other.end(success())
        assert other.wait().result == "done"
        record = large.wait()
        assert record.error["code"] == "not_recorded"
        assert "too large" in record.error["message"]

    @both
    def test_that_breaks_the_connection_for_a_reason_unknown(
        self, make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update_rows = transitions.update_rows

        def hang_up(model: Any, condition: str, rows: Any) -> int:
            if any(values.get("result") for values, _ in rows):
                raise OperationalError("the connection is closed")
            return update_rows(model, condition, rows)

        monkeypatch.setattr(transitions, "update_rows", hang_up)
        monkeypatch.setattr(recorder_module, "RETRY_SECONDS", (0.001,))
        run = make()
        record = run.end(success("poison")).wait()
        assert record.error["code"] == "not_recorded"
        assert_consistent(record)

    @pytest.mark.postgres
    def test_that_is_refused_at_the_commit(self, make: Callable[[], Run]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF NEW.result = '"refused"' THEN
                        RAISE EXCEPTION 'no such result' USING ERRCODE = '23514';
                    END IF;
                    RETURN NULL;
                END $$;
                CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON runs_runrecord
                    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
                """
            )
        try:
            refused, fine = make(), make()
            refused.end(success("refused"))
            fine.end(success())
            assert fine.wait().result == "done"
            record = refused.wait()
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP FUNCTION refuse CASCADE")
        assert record.error["code"] == "not_recorded"
        assert "no such result" in record.error["message"]


@both
class TestAnEnding:
    def test_that_is_an_error_keeps_its_code(self, make: Callable[[], Run]) -> None:
        run = make()
        error: Any = {"code": "their_code", "type": "Theirs", "message": NAN}
        record = run.end(Outcome("error", error=error)).wait()
        assert record.error == {"code": "their_code", "type": "Theirs", "message": "NaN"}
        assert run.not_recorded == ["error"]
        assert_consistent(record)

    def test_keeps_what_is_taken_of_several_values(self, make: Callable[[], Run]) -> None:
        run = make()
        run.trace.usage = replace(run.trace.usage, input_tokens=-1)
        error: Any = {"code": "x", "type": "X", "message": "why"}
        record = run.end(Outcome("error", error=error, partial_result=[HUGE])).wait()
        assert record.error == error
        assert record.partial_result == ["<integer of 5,001 digits>"]
        assert run.not_recorded == ["input_tokens", "partial_result"]
        assert_consistent(record)

    def test_of_a_stopped_run_stays_stopped(self, make: Callable[[], Run]) -> None:
        run = make()
        now = datetime.now(UTC)
        RunRecord.objects.filter(pk=run.record.pk).update(
            stop_requested_at=now, stop_mode="graceful", stop_root_request=run.record.pk
        )
        cleanup: Any = {"code": "x", "type": "X", "message": NAN}
        run.end(Outcome("stopped", partial_result=NAN, cleanup_error=cleanup))
        record = run.wait()
        assert (record.status, record.partial_result) == (Status.STOPPED, "NaN")
        assert record.stop_cleanup_error == {"type": "X", "message": "NaN"}
        assert run.not_recorded == ["partial_result", "stop_cleanup_error"]

    def test_spoils_no_other_of_its_batch(self, make: Callable[[], Run]) -> None:
        runs = [make() for _ in range(7)]
        for n, run in enumerate(runs):
            run.end(success(NAN if n == 3 else n))
        ends = [run.wait() for run in runs]
        assert [end.result for end in ends] == [0, 1, 2, None, 4, 5, 6]
        assert ends[3].error["code"] == "not_recorded"


@both
class TestAnEvent:
    def test_that_is_refused_keeps_its_place_and_its_neighbours(
        self, make: Callable[[], Run]
    ) -> None:
        run = make()
        for n in range(5):
            run.emit({"n": n, "value": NAN} if n == 2 else {"n": n})
        record = run.end(success()).wait()
        data = [event.data for event in record.events.filter(type="log").order_by("seq")]
        assert data == [{"n": 0}, {"n": 1}, {"n": 2, "not_recorded": ["value"]}, {"n": 3}, {"n": 4}]
        assert (record.status, record.result) == (Status.SUCCESS, "done")
        assert run.not_recorded is None
        assert_consistent(record)

    def test_is_shown_to_readers_as_it_was_written(
        self, make: Callable[[], Run], log: Journal
    ) -> None:
        run = make()
        run.emit({"value": HUGE})
        run.end(success()).wait()
        [event] = [event for event in log.of(run.record) if event.type == "log"]
        assert event.data == {"not_recorded": ["value"]}


class TestARecovery:
    """By any process, of the runs of a lost worker."""

    @both
    def test_of_a_run_that_is_refused_delays_no_other(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = make_worker(lost_at=datetime.now(UTC))
        runs = [make_run(alice, status=Status.RUNNING, worker=lost) for _ in range(3)]
        real = recovery._recover

        def recover(run: Any, *arguments: Any) -> Any:
            if run == runs[0].pk:
                raise DataError("refused")
            return real(run, *arguments)

        monkeypatch.setattr(recovery, "_recover", recover)
        assert recovery.recover_runs() == 2
        statuses = [RunRecord.objects.get(pk=run.pk).status for run in runs]
        assert statuses == [Status.RUNNING, Status.ERROR, Status.ERROR]

    @both
    def test_of_an_overdue_run_that_is_refused_delays_no_other(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = datetime.now(UTC)
        runs = [make_run(alice, queue_until=now) for _ in range(3)]
        apply = transitions.apply

        def refuse(changes: Any) -> int:
            if any(change.run == runs[1].pk for change in changes):
                raise DataError("refused")
            return apply(changes)

        monkeypatch.setattr(transitions, "apply", refuse)
        assert recovery.end_overdue(now) == 2
        statuses = [RunRecord.objects.get(pk=run.pk).status for run in runs]
        assert statuses == [Status.ERROR, Status.QUEUED, Status.ERROR]
