"""Wait for the end of a run and follow its events, in threads and on loops of any process."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError
from django.utils import timezone

import runs
from agents import Tools, agent
from runs import events
from runs.actions import recovery
from runs.client import following
from runs.delivery import ends, local_runs
from runs.exceptions import RunNotOver
from runs.models import RunRecord
from runs.status import Status
from runs.web.feed import close_hub, get_hub, hub
from tests.support.journal import Journal, eventually
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, in_thread, together

from .conftest import Do

pytestmark = pytest.mark.usefixtures("echo", "waiting", "on_both_databases")

Start = Callable[..., RunRecord]


@pytest.fixture
def elsewhere(alice: User) -> RunRecord:
    """A run of a worker that is lost: ``recover_runs`` ends it, as another process would."""
    return make_run(alice, status=Status.RUNNING, worker=make_worker(lost_at=timezone.now()))


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], object]]]:
    """What to do while a thread waits: one for each of its pauses, which end at once."""
    todo: list[Callable[[], object]] = []

    class Pause:
        def wait(self, seconds: float) -> None:
            assert 0 < seconds <= ends.LONGEST_PAUSE_SECONDS
            todo.pop(0)()

    @contextlib.contextmanager
    def watching(run: uuid.UUID) -> Iterator[Pause]:
        yield Pause()

    monkeypatch.setattr(local_runs, "watching", watching)
    yield todo
    assert not todo


class TestWait:
    @pytest.mark.usefixtures("worker")
    def test_returns_the_run_when_it_is_over(self, start: Start, gate: Gate) -> None:
        run = start("waiting")
        with in_thread(runs.wait, run) as waited:
            gate.until_arrived()
            gate.open()
            assert waited().result == "done"

    def test_of_a_run_that_is_over_returns_at_once(self, alice: User, polls: Any) -> None:
        run = make_run(alice, status=Status.SUCCESS, result=7)

        assert runs.wait(run, timeout=0).result == 7

    def test_ends_after_its_timeout(self, alice: User) -> None:
        run = make_run(alice)
        for error in (RunNotOver, TimeoutError):
            with pytest.raises(error, match=str(run.pk)):
                runs.wait(run, timeout=0.01)

    def test_sees_the_end_in_another_process(self, elsewhere: RunRecord, polls: Any) -> None:
        polls += [bool, recovery.recover_runs]

        assert runs.wait(elsewhere.pk).status == "error"

    def test_waits_through_another_attempt(self, alice: User, polls: Any) -> None:
        lost = make_worker(lost_at=timezone.now())
        run = make_run(
            alice, status=Status.RUNNING, worker=lost, requeue_on_loss=True, max_attempts=2
        )
        polls += [recovery.recover_runs, partial(runs.stop, run)]

        assert runs.wait(run).status == "stopped"

    def test_holds_no_connection(self, elsewhere: RunRecord, polls: Any) -> None:
        held: list[bool] = []
        polls += [lambda: held.append(connection.connection is not None), recovery.recover_runs]

        runs.wait(elsewhere)
        assert held == [False]

    def test_of_a_run_that_is_deleted_ends(self, alice: User, polls: Any) -> None:
        run = make_run(alice)
        polls += [RunRecord.objects.filter(pk=run.pk).delete]

        with pytest.raises(RunRecord.DoesNotExist):
            runs.wait(run)

    def test_in_a_transaction_is_refused(self, alice: User, polls: Any) -> None:
        over = make_run(alice, status=Status.SUCCESS)
        with transaction.atomic():
            run = runs.start("echo", owner=alice)
            with pytest.raises(TransactionManagementError):
                runs.wait(run)
            assert runs.wait(over) == over

    def test_ends_when_the_process_does(self, alice: User, polls: Any) -> None:
        polls += [ends.let_go]

        with pytest.raises(RunNotOver):
            runs.wait(make_run(alice))

    def test_and_an_end_at_the_same_moment_meet(self, alice: User) -> None:
        for _ in range(10):
            run = make_run(alice)
            waited, _ = together(partial(runs.wait, run, 20), partial(runs.stop, run))
            assert waited.status == "stopped"


class TestUntilOver:
    @pytest.mark.usefixtures("worker")
    def test_any_number_of_tasks_may_wait(self, start: Start, gate: Gate, do: Do[Any]) -> None:
        waited = [start("waiting") for _ in range(3)]

        async def work() -> list[RunRecord]:
            waiting = [asyncio.create_task(runs.until_over(run)) for run in waited * 20]
            while len(get_hub().waiters) < 60:
                await asyncio.sleep(0.005)
            gate.open()
            return await asyncio.gather(*waiting)

        assert {run.result for run in do(work())} == {"done"}

    def test_of_a_run_that_is_over_returns_at_once(self, alice: User, do: Do[Any]) -> None:
        run = make_run(alice, status=Status.SUCCESS, result=7)

        assert do(runs.until_over(run.pk, timeout=0)).result == 7

    def test_sees_the_end_in_another_process(self, elsewhere: RunRecord, do: Do[Any]) -> None:
        async def work() -> RunRecord:
            waiting = asyncio.create_task(runs.until_over(elsewhere))
            while not len(get_hub().waiters):
                await asyncio.sleep(0.005)
            assert await get_hub().read(recovery.recover_runs) == 1
            return await waiting

        assert do(work()).status == "error"

    def test_ends_after_its_timeout(self, alice: User, do: Do[Any]) -> None:
        with pytest.raises(RunNotOver):
            do(runs.until_over(make_run(alice), timeout=0.01))

    def test_of_a_run_that_is_deleted_ends(self, alice: User, do: Do[Any]) -> None:
        run = make_run(alice)

        async def work() -> None:
            waiting = asyncio.create_task(runs.until_over(run))
            while not len(get_hub().waiters):
                await asyncio.sleep(0.005)
            await get_hub().read(RunRecord.objects.filter(pk=run.pk).delete)
            await waiting

        with pytest.raises(RunRecord.DoesNotExist):
            do(work())

    def test_ends_when_the_process_does(self, alice: User, do: Do[Any]) -> None:
        run = make_run(alice)

        async def work() -> None:
            waiting = asyncio.create_task(runs.until_over(run))
            while not len(get_hub().waiters):
                await asyncio.sleep(0.005)
            await close_hub()
            await waiting

        with pytest.raises(RunNotOver):
            do(work())

    @pytest.mark.usefixtures("worker")
    def test_in_an_agent_leaves_the_hub_to_the_others(
        self, alice: User, start: Start, log: Journal, gate: Gate
    ) -> None:
        @agent("asking")
        async def asking(tools: Tools, run: str) -> Any:
            return (await runs.until_over(run)).result

        asked = start("waiting")
        gate.until_arrived()
        short = make_run(alice, status=Status.RUNNING, worker=make_worker())
        first = start("asking", run=str(short.pk))
        eventually(lambda: _waiting_count() == 1, "the first one waits")
        second = start("asking", run=str(asked.pk))
        eventually(lambda: _waiting_count() == 2, "both wait")
        runs.stop(short, mode="abandon")
        assert log.over(first).status == "success"
        gate.open()
        assert log.over(second).result == "done"
        warnings = [e.data for e in log.of(first, "log") if e.data["level"] == "warning"]
        assert not warnings


class TestStream:
    @pytest.mark.usefixtures("worker")
    def test_on_a_loop_is_live_and_ends_with_the_run(
        self, start: Start, gate: Gate, do: Do[Any]
    ) -> None:
        run = start("waiting")

        async def work() -> list[Any]:
            found = []
            async for event in runs.stream(run):
                found.append(event)
                if event["data"].get("message") == "before":
                    gate.open()  # the end has not come before this
            return found

        assert do(work()) == _stored(run)

    @pytest.mark.usefixtures("worker")
    def test_in_a_thread_is_live_and_ends_with_the_run(self, start: Start, gate: Gate) -> None:
        run = start("waiting")
        found = []
        for event in runs.stream(run):
            found.append(event)
            if event["data"].get("message") == "before":
                gate.open()

        assert found == _stored(run)

    def test_continues_where_it_was_left(
        self, start: Start, log: Journal, worker: Any, gate: Gate, do: Do[Any]
    ) -> None:
        gate.open()
        run = log.over(start("waiting"))
        stored = _stored(run)
        assert len(stored) == 4

        stream = runs.stream(run.pk, after=1)
        first = next(iter(stream))
        assert stream.cursor == 2

        async def rest() -> list[Any]:
            async for event in stream:
                return [event]
            return []

        assert [first, *do(rest()), *stream] == stored[1:]
        assert stream.cursor == run.last_seq
        assert list(stream) == []

    def test_after_the_last_event_is_empty(
        self, start: Start, log: Journal, worker: Any, do: Do[Any]
    ) -> None:
        run = log.over(start("echo"))
        RunRecord.objects.filter(pk=run.pk).update(log_removed_at=timezone.now())
        run.events.all().delete()

        async def all_events(after: int) -> list[Any]:
            return [event async for event in runs.stream(run, after=after)]

        for after in (0, run.last_seq):
            assert list(runs.stream(run, after=after)) == []
            assert do(all_events(after)) == []

    def test_of_no_run_says_so(self, transactional_db: None, do: Do[Any]) -> None:
        async def first(id: uuid.UUID) -> None:
            async for _ in runs.stream(id):
                break

        with pytest.raises(RunRecord.DoesNotExist):
            do(first(uuid.uuid4()))
        with pytest.raises(RunRecord.DoesNotExist):
            next(iter(runs.stream(uuid.uuid4())))

    def test_ends_when_the_process_does(self, alice: User, polls: Any, do: Do[Any]) -> None:
        run = make_run(alice)
        polls += [ends.let_go]
        with pytest.raises(RunNotOver):
            list(runs.stream(run))

        async def work() -> None:
            async def follow() -> None:
                async for _ in runs.stream(run):
                    pass

            following = asyncio.create_task(follow())
            while not len(get_hub().readers):
                await asyncio.sleep(0.005)
            await close_hub()
            await following

        with pytest.raises(RunNotOver):
            do(work())

    @pytest.mark.usefixtures("worker")
    def test_that_had_to_make_room_goes_on(self, start: Start, gate: Gate, do: Do[Any]) -> None:
        run = start("waiting")

        async def work() -> list[Any]:
            found = []
            async for event in runs.stream(run):
                found.append(event)
                if event["data"].get("message") == "before":
                    [reader] = get_hub().readers
                    reader.close_for("unread")
                    gate.open()
            return found

        assert do(work()) == _stored(run)

    def test_takes_no_place_of_a_user(
        self, start: Start, log: Journal, worker: Any, options: Any, do: Do[Any]
    ) -> None:
        options(MAX_FEEDS_PER_OWNER=1)
        run = log.over(start("echo"))

        async def work() -> int:
            streams = [aiter(runs.stream(run)) for _ in range(3)]
            firsts = [await anext(stream) for stream in streams]
            for stream in streams:
                await stream.aclose()
            return len(firsts)

        assert do(work()) == 3

    def test_in_a_thread_and_a_transaction_does_not_wait(self, alice: User, polls: Any) -> None:
        with transaction.atomic():
            run = runs.start("echo", owner=alice)
            with pytest.raises(TransactionManagementError):
                list(runs.stream(run))

    def test_in_a_thread_holds_no_connection(self, elsewhere: RunRecord, polls: Any) -> None:
        held: list[bool] = []
        polls += [lambda: held.append(connection.connection is not None), recovery.recover_runs]

        assert [event["type"] for event in runs.stream(elsewhere)] == ["agent_end"]
        assert held == [False]

    def test_in_a_thread_has_an_end_that_comes_between_two_reads(
        self, elsewhere: RunRecord, polls: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls += [bool]
        read = events.read

        def reading(*what: Any, **options: Any) -> Any:
            found = read(*what, **options)
            recovery.recover_runs()
            return found

        monkeypatch.setattr(events, "read", reading)
        assert [event["type"] for event in runs.stream(elsewhere)] == ["agent_end"]

    def test_in_a_thread_reads_a_few_at_a_time(
        self, start: Start, log: Journal, worker: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "EVENT_COUNT", 1)
        run = log.over(start("echo"))

        assert list(runs.stream(run)) == _stored(run)


def _waiting_count() -> int:
    return sum(len(one.waiters) for one in list(hub._hubs.values()))


def _stored(run: RunRecord) -> list[Any]:
    """Return the whole log of a run, as JSON has it."""
    return [event.as_dict() for event in events.read(run.pk)]
