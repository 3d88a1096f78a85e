"""A run ends and is stopped at the same time, hundreds of times, in every order.

There is one ending, of either winner: one agent_end, a record that agrees with it, and a receipt
that says which of the two was first.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import IntegrityError, connection

from agents import Tools, agent
from runs import events
from runs.delivery import stops
from runs.exceptions import RunAlreadyFinished
from runs.models import RunRecord
from runs.status import Status
from runs.worker import recorder
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.running import Gate, Start, in_thread

pytestmark = pytest.mark.usefixtures("worker")

FORCED = 60  # times that each order is forced
AT_RANDOM = 200


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(autouse=True)
def racer(gate: Gate) -> None:
    @agent("racer")
    async def racer(tools: Tools) -> str:
        await gate.wait()
        await tools.data_store.get("x")
        return "finished"


def _all_consistent(runs: list[RunRecord]) -> list[RunRecord]:
    return [assert_consistent(run) for run in runs]


def test_the_stop_comes_before_the_last_guard(
    gate: Gate, start: Start, stop: Any, log: Journal
) -> None:
    runs = [start("racer") for _ in range(FORCED)]
    gate.until_arrived(FORCED)
    for run in runs:
        stop(run)
    gate.open()
    log.until_over(*runs)
    for record in _all_consistent(runs):
        assert record.status == Status.STOPPED
        assert record.stop_observed_at is not None


def test_the_stop_comes_after_the_last_guard(
    gate: Gate, start: Start, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agents have returned, and their endings are not written yet."""
    record_updates, end = recorder.record_updates, recorder.Recorder.end
    written, returned = Gate(), Gate()

    def held(batch: Any, care: Any) -> Any:
        if any(updates.ending is not None for updates in batch):
            written.wait_here()
        return record_updates(batch, care)

    def counted(self: recorder.Recorder, *arguments: Any) -> None:
        end(self, *arguments)
        returned.arrive()

    runs = [start("racer") for _ in range(FORCED)]
    gate.until_arrived(FORCED)
    monkeypatch.setattr(recorder, "record_updates", held)
    monkeypatch.setattr(recorder.Recorder, "end", counted)
    gate.open()
    returned.until_arrived(FORCED)
    for run in runs:
        assert stop(run).outcome == "accepted"
    written.open()
    log.until_over(*runs)
    for record in _all_consistent(runs):
        assert (record.status, record.result) == (Status.SUCCESS, "finished")
        assert record.stop_finished_first
        assert record.stop_observed_at is None


def test_the_stop_waits_for_an_ending_that_is_being_written(
    gate: Gate, start: Start, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = events.append
    for _ in range(20):
        writing = Gate()

        def held(rows: Any, writing: Gate = writing) -> None:
            rows = list(rows)
            if any(event.type == "agent_end" for event in rows):
                writing.wait_here()
            append(rows)

        with monkeypatch.context() as patch:
            patch.setattr(events, "append", held)
            run = start("racer")
            gate.open()
            writing.until_arrived()

            def try_to_stop(run: RunRecord = run) -> Any:
                try:
                    return stop(run)
                except RunAlreadyFinished as error:
                    return error

            with in_thread(try_to_stop) as answer:
                writing.open()
                assert isinstance(answer(), RunAlreadyFinished)
        record = log.over(run)
        assert record.status == Status.SUCCESS
        assert not record.stop_requested
        assert_consistent(run)


def test_the_run_ends_between_the_stops_commit_and_its_token(
    gate: Gate,
    start: Start,
    stop: Any,
    log: Journal,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No answer is false: the stop was accepted, and the record says that the run was first."""
    monkeypatch.setattr(stops, "deliver_missed", lambda worker: None)  # a poll would find the stop
    deliver = stops.deliver
    for _ in range(20):
        committed = Gate()

        def held(*arguments: Any, committed: Gate = committed) -> None:
            committed.wait_here()
            deliver(*arguments)

        run = start("racer")
        gate.until_arrived()
        with monkeypatch.context() as patch:
            patch.setattr(stops, "deliver", held)
            with in_thread(stop, run) as answer:
                committed.until_arrived()
                gate.open()
                record = log.over(run)
                committed.open()
                assert answer().outcome == "accepted"
        assert record.status == Status.SUCCESS
        assert record.stop_finished_first
        assert record.stop_acknowledged_at is None
        assert_consistent(run)
        gate.close()


@pytest.mark.thorough
def test_hundreds_of_times_at_random(start: Start, stop: Any, log: Journal) -> None:
    """Short runs, stopped after about as long as they take, many at a time.

    How long a run takes is up to the machine. So a run that was stopped in time makes the next
    stops come later, and one that was over makes them come earlier.
    """

    @agent("sprinter")
    async def sprinter(tools: Tools, seconds: float) -> str:
        await asyncio.sleep(seconds)
        await tools.data_store.get("x")
        await asyncio.sleep(seconds)
        return "finished"

    dice = random.Random(6)
    pause = threading.Event()
    longest = 0.02  # seconds from a start to its stop

    def race(seed: int) -> tuple[RunRecord, str]:
        nonlocal longest
        mine = random.Random(seed)
        try:
            run = start("sprinter", seconds=mine.random() * 0.01)
            pause.wait(mine.random() * longest)
            try:
                stop(run)
            except RunAlreadyFinished:
                longest = max(longest / 1.1, 0.005)
                return run, "refused"
            longest = min(longest * 1.1, 1.0)
            return run, "accepted"
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        races = list(pool.map(race, [dice.getrandbits(32) for _ in range(AT_RANDOM)]))
    runs = [run for run, _ in races]
    log.until_over(*runs)
    counts: Counter[tuple[str, str]] = Counter()
    for run, answer in races:
        record = assert_consistent(run)
        assert record.stop_requested == (answer == "accepted")
        counts[answer, record.status] += 1
    assert counts["accepted", Status.STOPPED], "the stop was first at times"
    assert counts["refused", Status.SUCCESS], "the run was first at times"
    assert sum(counts.values()) == AT_RANDOM
    ends = Counter(e.run for e in log.events if e.type == "agent_end")
    assert set(ends.values()) == {1}


def test_two_endings_of_one_run_are_one(start: Start, log: Journal, gate: Gate) -> None:
    """The database itself refuses a second agent_end."""
    gate.open()
    run = start("racer")
    record = log.over(run)
    again = events.system_event(record, record.last_seq + 1, "agent_end", {"status": "error"})
    with pytest.raises(IntegrityError):
        events.append([again])
    assert_consistent(run)
