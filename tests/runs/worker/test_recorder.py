"""The recorder: whatever the database does, no event is lost or written twice."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DataError, InterfaceError, OperationalError, connection

from agents import Tools, agent
from agents.guard import Guard
from agents.runtime import Outcome
from agents.trace import Trace, Usage
from runs import events
from runs.actions.finishing import Ended
from runs.actions.progress import record_updates
from runs.delivery import notify
from runs.delivery.local_runs import ActiveRun
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import recorder
from runs.worker.recorder import Recorder
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, Start


class Run:
    """A claimed run; only its trace is real."""

    def __init__(self, owner: User, worker: WorkerRecord, recorder: Recorder) -> None:
        self.record = make_run(owner, status=Status.RUNNING, worker=worker)
        self.entry = ActiveRun(self.record.pk, worker.pk)
        self.trace = Trace(str(self.record.pk), "made", recorder)
        self.entry.guard = Guard(self.entry.token, self.trace)
        self.recorder = recorder
        self.ends: list[Ended | None] = []
        self.ended = threading.Event()
        recorder.open(self.entry, self.trace)

    def end(self, outcome: Outcome | None = None) -> Run:
        def on_end(ended: Ended | None) -> None:
            self.ends.append(ended)
            self.ended.set()

        self.recorder.end(self.trace, outcome or Outcome("success", result="done"), on_end)
        return self

    def wait(self) -> RunRecord:
        assert self.ended.wait(10), "the end was not written"
        self.record.refresh_from_db()
        return self.record


@pytest.fixture
def lost() -> list[Any]:
    return []


@pytest.fixture
def writer(transactional_db: None, lost: list[Any]) -> Iterator[Recorder]:
    recorder = Recorder(on_lost=lost.append)
    recorder.start()
    yield recorder
    assert recorder.close(), "the recorder did not end"


@pytest.fixture
def make(alice: User, writer: Recorder) -> Callable[[], Run]:
    worker = make_worker()
    return lambda: Run(alice, worker, writer)


@contextmanager
def writes(monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], Any]) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "record_updates", lambda batch, _: write(batch))
        yield


def test_events_are_stored_in_order(make: Callable[[], Run], log: Journal) -> None:
    run = make()
    run.trace.emit("agent_start")
    for n in range(1200):
        run.trace.emit("log", {"level": "info", "message": str(n)})
    record = run.end().wait()
    assert record.result == "done"
    stored = record.events.filter(type="log").order_by("seq")
    assert [event.data["message"] for event in stored] == [str(n) for n in range(1200)]
    assert [event.seq for event in log.of(record)] == list(range(1, 1203))
    assert_consistent(record)


def test_events_of_a_quiet_run_do_not_wait_for_more(make: Callable[[], Run], log: Journal) -> None:
    run = make()
    run.trace.emit("agent_start")
    log.until_event(run.record, "agent_start")
    eventually(lambda: RunRecord.objects.get().last_seq == 1, "the event is in the record")
    run.end().wait()


def test_usage_is_written_together_with_its_events(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies between two writes leaves a record that agrees with its log."""
    run = make()
    batches: list[tuple[list[str], int]] = []

    def say(call: str) -> None:
        data = {"call": call, "input_tokens": 3, "output_tokens": 4}
        run.trace.emit("llm_call", data, usage=Usage(1, 3, 4))

    def write(batch: Any) -> Any:
        (updates,) = batch
        calls = [e.data["call"] for e in updates.events if e.type == "llm_call"]
        if calls == ["1"] and not batches:
            say("2")  # while the first is on its way; the database is away, so there is time
            batches.append((calls, updates.usage.llm_calls))
            raise OperationalError("the connection was closed")
        if calls:
            batches.append((calls, updates.usage.llm_calls))
        return record_updates(batch)

    with writes(monkeypatch, write):
        run.trace.emit("agent_start")
        say("1")
        eventually(lambda: RunRecord.objects.get().last_seq == 3, "both are in the record")
    assert batches == [(["1"], 1), (["1"], 1), (["2"], 2)]
    assert_consistent(run.end().wait())


def test_many_threads_may_emit_at_once(make: Callable[[], Run]) -> None:
    run = make()
    run.trace.emit("agent_start")

    def emit() -> None:
        for n in range(100):
            run.trace.emit("log", {"level": "info", "message": str(n)})

    threads = [threading.Thread(target=emit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = run.end().wait()
    assert record.last_seq == 802
    assert_consistent(record)


@pytest.mark.usefixtures("on_both_databases")
@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_broken_connection_neither_loses_nor_repeats_events(
    when: str, error: type[Exception], make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the commit, or after it: then the recorder can't know that it was written."""
    failures = iter(range(4))

    def write(batch: Any) -> Any:
        failing = next(failures, None) is not None
        if failing and when == "before":
            raise error("the connection is broken")
        recorded = record_updates(batch)
        if failing:
            raise error("the connection is broken")
        return recorded

    monkeypatch.setattr(recorder, "RETRY_SECONDS", (0.01,))
    with writes(monkeypatch, write):
        runs = [make() for _ in range(3)]
        for run in runs:
            run.trace.emit("agent_start")
            run.trace.emit("log", {"level": "info", "message": "once"})
            run.end()
        for run in runs:
            record = run.wait()
            assert (record.status, record.result) == (Status.SUCCESS, "done")
            assert [ended.status for ended in run.ends if ended] == [Status.SUCCESS]
            assert_consistent(record)


@pytest.mark.postgres
@pytest.mark.parametrize("when", ["before its log", "before the commit"])
def test_a_process_that_froze_during_a_write_repeats_it_when_it_resumes(
    when: str, make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is valid, but PostgreSQL has ended its transaction, because of the locks."""
    append = events.append
    freezes = iter([_until_the_session_is_ended])

    def freeze_and_append(rows: Any) -> None:
        freeze = next(freezes, lambda: None)
        if when == "before its log":
            freeze()
        append(rows)
        if when == "before the commit":
            freeze()

    run = make()
    monkeypatch.setattr(events, "append", freeze_and_append)
    run.trace.emit("agent_start", {"attempt": 1})
    record = run.end().wait()
    assert next(freezes, None) is None, "the process was frozen"
    assert (record.status, record.result) == (Status.SUCCESS, "done")
    assert record.events.get(seq=1).data == {"attempt": 1}
    assert_consistent(record)


def _until_the_session_is_ended() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 1")
    goodbye, _, _ = select.select([connection.connection], [], [], 10)
    assert goodbye, "the server reports the session's end"


@pytest.mark.usefixtures("on_both_databases")
def test_one_log_that_cannot_be_stored_does_not_block_others(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = make(), make()
    append = events.append

    def refuse(rows: Any) -> None:
        rows = list(rows)
        if any(e.run == str(bad.record.pk) and e.data.get("message") == "bad" for e in rows):
            raise DataError("no such character")
        append(rows)

    monkeypatch.setattr(events, "append", refuse)
    for run in (bad, good):
        run.trace.emit("agent_start")
        data = {"input_tokens": 3, "output_tokens": 4, "call": "1", "message": "bad"}
        run.trace.emit("llm_call", data, usage=Usage(1, 3, 4))
        run.end()
    assert good.wait().status == Status.SUCCESS
    record = bad.wait()
    assert (record.status, record.result) == ("success", "done"), "the result was not refused"
    assert (record.input_tokens, record.output_tokens) == (3, 4)
    assert [e.type for e in record.events.all()] == ["agent_start", "llm_call", "agent_end"]
    data = {"input_tokens": 3, "output_tokens": 4, "call": "1", "not_recorded": ["message"]}
    assert record.events.get(seq=2).data == data
    assert assert_consistent(record).last_seq == 3


def test_a_log_keeps_its_numbers_when_a_part_of_it_cannot_be_stored(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch, log: Journal
) -> None:
    run = make()
    append = events.append

    def refuse(rows: Any) -> None:
        rows = list(rows)
        if any(e.data.get("message") == "bad" for e in rows):
            raise DataError("no such character")
        append(rows)

    monkeypatch.setattr(events, "append", refuse)
    run.trace.emit("agent_start")
    run.trace.emit("log", {"level": "info", "message": "bad"})
    log.until_event(run.record, "log")
    run.trace.emit("log", {"level": "info", "message": "good"})
    record = run.end().wait()
    assert record.status == Status.SUCCESS
    assert [e.data.get("message") for e in record.events.filter(type="log")] == [None, "good"]
    assert_consistent(record)


def test_a_run_that_cannot_be_written_at_all_does_not_end_the_thread(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    hopeless, fine = make(), make()

    def write(batch: Any) -> Any:
        if any(updates.run == hopeless.record.pk for updates in batch):
            raise DataError("never")
        return record_updates(batch)

    with writes(monkeypatch, write):
        hopeless.end()
        fine.end()
        assert fine.wait().status == Status.SUCCESS
        assert hopeless.ended.wait(10)
    assert hopeless.ends == [None]
    hopeless.record.refresh_from_db()
    assert hopeless.record.status == Status.RUNNING  # an orphaned run: its worker finds it


def test_an_update_during_the_last_write_does_not_end_the_run_again(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token may trip then, and the receipt must say so."""
    run = make()
    write = record_updates

    def tripped_meanwhile(*arguments: Any) -> Any:
        run.recorder.activity(run.trace)
        return write(*arguments)

    monkeypatch.setattr(recorder, "record_updates", tripped_meanwhile)
    run.end().wait()
    assert run.recorder.close()
    assert len(run.ends) == 1


def test_a_run_that_ends_while_its_updates_are_being_gathered_ends_once(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gate = make(), Gate()
    gather = Recorder._updates

    def held(self: Recorder, book: Any) -> Any:
        gate.wait_here()
        return gather(self, book)

    monkeypatch.setattr(Recorder, "_updates", held)
    run.trace.emit("agent_start")
    gate.until_arrived()
    run.end()
    gate.open()
    assert run.wait().status == Status.SUCCESS
    assert make().end().wait().status == Status.SUCCESS  # the thread has continued
    assert len(run.ends) == 1


class TestALostClaim:
    def test_is_reported_and_nothing_is_written(
        self, make: Callable[[], Run], lost: list[Any], log: Journal
    ) -> None:
        run = make()
        RunRecord.objects.filter(pk=run.record.pk).update(attempt=2)
        run.trace.emit("agent_start")
        eventually(lambda: [entry.id for entry in lost] == [run.record.pk], "the loss is reported")
        run.trace.emit("log", {"level": "info", "message": "too late"})
        run.end()
        assert run.ended.wait(10)
        assert run.ends == [None]
        assert not events.read(run.record.pk)
        assert RunRecord.objects.get().status == Status.RUNNING

    def test_at_the_end_is_reported_once(self, make: Callable[[], Run], lost: list[Any]) -> None:
        run, other = make(), make()
        RunRecord.objects.filter(pk=run.record.pk).update(attempt=2)
        run.end().wait()
        assert other.end().wait().status == Status.SUCCESS
        assert (run.ends, lost) == ([None], [])

    def test_during_the_end_is_reported_once(
        self, make: Callable[[], Run], lost: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run ends while the recorder finds that its earlier updates have a lost claim."""
        run, other = make(), make()
        gate = Gate()

        def write(batch: Any) -> Any:
            recorded = record_updates(batch)
            if any(updates.run == run.record.pk for updates in batch):
                gate.wait_here()
            return recorded

        RunRecord.objects.filter(pk=run.record.pk).update(attempt=2)
        with writes(monkeypatch, write):
            run.trace.emit("agent_start")
            gate.until_arrived()
            run.end()
            gate.open()
            assert run.ended.wait(10)
            assert other.end().wait().status == Status.SUCCESS
        assert run.ends == [None]

    @pytest.mark.parametrize("order", [(1, 2), (2, 1)])
    def test_by_the_same_worker_only_the_last_attempt_counts(
        self, order: tuple[int, int], make: Callable[[], Run], writer: Recorder, lost: list[Any]
    ) -> None:
        """Whichever of the two is written first."""
        run = make()
        RunRecord.objects.filter(pk=run.record.pk).update(attempt=2)
        traces, ends, entries = {}, {}, {}
        for attempt in order:
            entries[attempt] = ActiveRun(run.record.pk, run.entry.worker, attempt)
            traces[attempt] = Trace(run.trace.run, "made", writer)
            writer.open(entries[attempt], traces[attempt])
        over = threading.Event()
        for attempt in order:
            traces[attempt].emit("log", {"level": "info", "message": f"attempt {attempt}"})

            def on_end(ended: Ended | None, attempt: int = attempt) -> None:
                ends[attempt] = ended
                if len(ends) == 2:
                    over.set()

            writer.end(traces[attempt], Outcome("success", result=attempt), on_end)
        assert over.wait(10)
        run.record.refresh_from_db()
        assert run.record.result == 2
        assert [e.data["message"] for e in run.record.events.filter(type="log")] == ["attempt 2"]
        assert ends[1] is None
        assert entries[1] in lost
        assert entries[2] not in lost


def test_a_listener_that_fails_fails_no_run(
    worker: Worker, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def event(self, event: Any) -> None:
            raise RuntimeError("broken")

        text = activity = event

    @agent("quick")
    async def quick(tools: Tools) -> str:
        await tools.data_store.get("x")
        return "done"

    broken: Any = Broken()
    notify.add_listener(broken)
    try:
        assert log.over(start("quick")).result == "done"
    finally:
        notify.remove_listener(broken)


def test_updates_that_cannot_be_delivered_delay_no_run(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(runs: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(notify, "publish_changes", fail)
    for _ in range(2):
        assert make().end().wait().status == Status.SUCCESS
    assert "can't be passed on" in caplog.text


def test_result_and_terminal_status_appear_together_with_the_whole_log(
    worker: Worker, start: Start, log: Journal
) -> None:
    """A reader, at any moment, sees the whole end or nothing of it."""

    @agent("chatty")
    async def chatty(tools: Tools, n: int) -> int:
        for line in range(20):
            tools.log(f"line {line}")
        return n

    wrong: list[Any] = []
    done = threading.Event()

    def watch() -> None:
        from django.db import connection

        try:
            while not done.is_set():
                for run in RunRecord.objects.order_by("-created_at")[:20]:
                    if not run.is_terminal:
                        continue
                    types = [e.type for e in events.read(run.pk)]
                    whole = len(types) == run.last_seq == 22 and types[-1] == "agent_end"
                    if not whole or run.result is None or run.finished_at is None:
                        wrong.append((run.status, run.result, len(types), run.last_seq))
        finally:
            connection.close()

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        runs = [start("chatty", n=n) for n in range(100)]
        records = log.until_over(*runs)
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()
    assert not wrong
    assert [record.result for record in records] == list(range(100))
