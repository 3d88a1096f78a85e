"""Agents use the ORM: their connections are alive, are returned, and hand no transaction on."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.backends.signals import connection_created

from agents import SyncTools, Tools, agent, should_stop
from runs.db.agent_connections import LEFT_OPEN
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start


class Lent:
    """The connections that were opened outside of the worker's own threads and of the test's."""

    def __init__(self) -> None:
        self._wrappers: list[Any] = []

    def note(self, connection: Any, **_: object) -> None:
        name = threading.current_thread().name
        if not name.startswith(("runs-", "MainThread")):
            self._wrappers.append(connection)

    def until_opened(self, count: int = 1) -> None:
        eventually(lambda: len(self._wrappers) >= count, "a connection is opened")

    @property
    def held(self) -> int:
        """How many of them were not returned to the pool."""
        return sum(wrapper.connection is not None for wrapper in self._wrappers)

    def until_returned(self) -> None:
        assert self._wrappers, "none was opened"
        eventually(lambda: self.held == 0, "all are returned", 5)


@pytest.fixture
def lent(worker: Worker) -> Iterator[Lent]:
    noting = Lent()
    connection_created.connect(noting.note)
    yield noting
    connection_created.disconnect(noting.note)


def add(name: str) -> None:
    User.objects.create_user(name)


def leave_autocommit_off(name: str) -> None:
    transaction.set_autocommit(False)
    add(name)


def leave_atomic_open(name: str) -> None:
    transaction.atomic().__enter__()
    add(name)


LEAVERS = pytest.mark.parametrize("leave", [leave_autocommit_off, leave_atomic_open])


def warnings_of(log: Journal, run: Any) -> list[str]:
    return [e.data["message"] for e in log.of(run, "log") if e.data["level"] == "warning"]


class TestReturned:
    WAYS_OUT = ("return", "error", "SystemExit", "stop")

    @pytest.mark.postgres
    @pytest.mark.parametrize("how", WAYS_OUT)
    def test_a_def_agent_returns_its_connection_on_each_way_out(
        self, how: str, lent: Lent, start: Start, stop: Any, log: Journal
    ) -> None:
        gate = Gate()

        @agent("counter")
        def counter(tools: SyncTools) -> int:
            count = User.objects.count()
            match how:
                case "error":
                    raise ValueError(how)
                case "SystemExit":
                    raise SystemExit(3)
                case "stop":
                    gate.wait_here()
                    User.objects.count()
                    tools.data_store.get("x")
            return count

        runs = [start("counter") for _ in range(5)]
        if how == "stop":
            gate.until_arrived(5)
            for run in runs:
                stop(run)
            gate.open()
        log.until_over(*runs)
        lent.until_returned()

    @pytest.mark.postgres
    def test_a_job_whose_await_was_cut_returns_its_connection_before_its_run_ends(
        self, lent: Lent, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        def slow() -> None:
            User.objects.count()
            gate.wait_here()

        @agent("cutter")
        async def cutter(tools: Tools) -> str:
            try:
                async with asyncio.timeout(0.05):
                    await asyncio.to_thread(slow)
            except TimeoutError:
                tools.log("at work")
                return "cut"
            return "not cut"

        run = start("cutter")
        log.until_at_work(1)
        gate.until_arrived()
        eventually(lambda: lent.held == 1, "the job alone has a connection")
        gate.open()
        assert log.over(run).result == "cut"
        lent.until_returned()

    @pytest.mark.postgres
    def test_code_that_outlives_its_worker_returns_its_connection(
        self, lent: Lent, worker: Worker, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        @agent("outliver")
        def outliver(tools: SyncTools) -> None:
            User.objects.count()
            gate.arrive()
            while not should_stop():
                time.sleep(0.01)

        run = start("outliver")
        gate.until_arrived()
        worker.stop_threads()
        assert log.over(run).error["code"] == "worker_shutdown"
        lent.until_returned()

    @pytest.mark.postgres
    def test_a_def_agent_that_waits_for_a_tool_holds_no_connection(
        self, lent: Lent, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        @agent("held")
        async def held(tools: Tools) -> None:
            await gate.wait()

        @agent("waiter")
        def waiter(tools: SyncTools) -> int:
            count = User.objects.count()
            tools.agents.call("held")
            return count + User.objects.count()

        run = start("waiter")
        gate.until_arrived()
        lent.until_returned()
        gate.open()
        assert log.over(run).result == 2

    @pytest.mark.postgres
    @pytest.mark.parametrize("with_context", [True, False])
    @LEAVERS
    def test_a_thread_of_the_agents_own_returns_its_connection_at_its_end(
        self,
        leave: Callable[[str], None],
        with_context: bool,
        lent: Lent,
        start: Start,
        log: Journal,
    ) -> None:
        @agent("threader")
        def threader(tools: SyncTools) -> None:
            context = contextvars.copy_context() if with_context else contextvars.Context()
            thread = threading.Thread(target=context.run, args=(leave, "carol"))
            thread.start()
            thread.join()

        log.over(start("threader"))
        lent.until_returned()
        assert not User.objects.filter(username="carol").exists()


class TestTransactions:
    @LEAVERS
    @pytest.mark.parametrize("place", ["def", "to_thread", "sync_to_async", "not sensitive"])
    def test_an_open_transaction_is_rolled_back_said_and_not_handed_on(
        self, place: str, leave: Callable[[str], None], worker: Worker, start: Start, log: Journal
    ) -> None:
        def look() -> list[Any]:
            seen = [connection.in_atomic_block, connection.get_autocommit()]
            add("dave")
            return seen

        async def in_thread(work: Callable[[], Any]) -> Any:
            match place:
                case "to_thread":
                    return await asyncio.to_thread(work)
                case "sync_to_async":
                    return await sync_to_async(work)()
            return await sync_to_async(work, thread_sensitive=False)()

        @agent("leaver")
        async def leaver(tools: Tools) -> None:
            await in_thread(lambda: leave("carol"))

        @agent("leaver-def")
        def leaver_def(tools: SyncTools) -> None:
            leave("carol")

        @agent("looker")
        async def looker(tools: Tools) -> Any:
            return await in_thread(look)

        left = start("leaver-def" if place == "def" else "leaver")
        assert log.over(left).status == Status.SUCCESS
        assert log.over(start("looker")).result == [False, True]
        eventually(lambda: LEFT_OPEN in warnings_of(log, left), "its log says so")
        names = set(User.objects.values_list("username", flat=True))
        assert "dave" in names
        assert "carol" not in names

    @pytest.mark.postgres  # SQLite has one writer: the stop would wait
    def test_a_stop_inside_atomic_rolls_back(
        self, worker: Worker, start: Start, stop: Any, log: Journal
    ) -> None:
        gate = Gate()

        @agent("atomic")
        def atomic_agent(tools: SyncTools) -> None:
            with transaction.atomic():
                add("carol")
                gate.wait_here()
                tools.data_store.get("x")

        run = start("atomic")
        gate.until_arrived()
        stopping = threading.Thread(target=stop, args=(run,))
        stopping.start()  # on SQLite it waits for the transaction's end
        if connection.vendor == "postgresql":
            stopping.join()
        gate.open()
        assert log.over(run).status == Status.STOPPED
        assert not User.objects.filter(username="carol").exists()
        assert LEFT_OPEN not in warnings_of(log, run)

    def test_a_transaction_over_several_jobs_of_one_run_is_kept(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        @agent("stepper")
        async def stepper(tools: Tools) -> bool:
            await sync_to_async(transaction.set_autocommit)(False)
            await sync_to_async(add)("carol")
            is_there = await User.objects.filter(username="carol").aexists()
            await sync_to_async(transaction.commit)()
            await sync_to_async(transaction.set_autocommit)(True)
            return is_there

        run = start("stepper")
        assert log.over(run).result is True
        assert User.objects.filter(username="carol").exists()
        assert warnings_of(log, run) == []


class TestCursors:
    def test_rows_are_read_on_while_tools_are_called(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        for number in range(5):
            add(f"user{number}")

        @agent("reader")
        def reader(tools: SyncTools) -> int:
            count = 0
            with connection.cursor() as cursor:
                for user in User.objects.iterator(chunk_size=1):
                    tools.data_store.set(user.username, 1)
                    cursor.execute("SELECT 1")
                    count += cursor.fetchone()[0]
            return count

        @agent("reader-async")
        async def reader_async(tools: Tools) -> int:
            count = 0
            async for user in User.objects.aiterator(chunk_size=1):
                await tools.data_store.set(user.username, 1)
                count += await User.objects.filter(pk=user.pk).acount()
            return count

        assert log.over(start("reader")).result == User.objects.count()
        assert log.over(start("reader-async")).result == User.objects.count()

    @pytest.mark.postgres
    def test_a_cursor_that_a_run_leaves_open_keeps_no_connection(
        self, lent: Lent, start: Start, log: Journal
    ) -> None:
        kept: list[Any] = []

        @agent("keeper")
        async def keeper(tools: Tools) -> None:
            generator = User.objects.aiterator(chunk_size=1)
            kept.append(generator)
            await anext(generator)

        log.over(start("keeper"))
        lent.until_returned()


class TestApart:
    def test_a_run_that_holds_its_thread_delays_no_other_runs_async_orm(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        @agent("holder")
        async def holder(tools: Tools) -> None:
            await sync_to_async(gate.wait_here)()

        @agent("counter")
        async def counter(tools: Tools) -> int:
            return await User.objects.acount()

        held = start("holder")
        gate.until_arrived()
        assert log.over(start("counter")).result == 1
        gate.open()
        log.until_over(held)

    def test_no_thread_of_a_run_is_left(self, worker: Worker, start: Start, log: Journal) -> None:
        @agent("counter")
        async def counter(tools: Tools) -> list[str]:
            return await sync_to_async(lambda: [threading.current_thread().name])()

        [name] = log.over(start("counter")).result
        assert name == "agent-counter-orm"
        eventually(
            lambda: name not in {thread.name for thread in threading.enumerate()}, "it has ended"
        )

    def test_a_run_that_is_over_has_no_orm_any_more(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        contexts: list[contextvars.Context] = []

        @agent("leaver")
        async def leaver(tools: Tools) -> None:
            contexts.append(contextvars.copy_context())

        log.over(start("leaver"))

        async def late() -> int:
            task = asyncio.get_running_loop().create_task(
                User.objects.acount(), context=contexts[0]
            )
            return await task

        with pytest.raises(RuntimeError):
            asyncio.run(late())
