"""The data store on the ORM: the same answers on every database; owners are separate."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DataError, OperationalError, connection

from agents import AgentStopped, SyncTools, Tools, agent
from agents.cancellation import Lease
from agents.guard import Guard
from agents.tools.data_store import MAX_PLACE_BYTES, DataStore, InvalidEntry
from agents.trace import Trace
from runs.db import transactions
from runs.db.threads import DatabaseThreads
from runs.delivery.local_runs import ActiveRun
from runs.models import DataStoreEntry
from runs.status import Status
from runs.worker import data_store as store_module
from runs.worker.data_store import OwnerStore
from runs.worker.worker import Worker
from tests.support.agent_run import ListSink
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker
from tests.support.running import Start
from tests.support.server import eventually

on_both_databases = pytest.mark.usefixtures("on_both_databases")


@pytest.fixture
def threads(transactional_db: None) -> Iterator[DatabaseThreads]:
    threads = DatabaseThreads(2)
    yield threads
    threads.close()


def store_of(owner: User, threads: DatabaseThreads) -> DataStore:
    run = threads.submit(_claimed, owner).result()
    guard = Guard(run.token, Trace("0" * 12, "t", ListSink()))
    return DataStore(guard, OwnerStore(owner.pk, threads, run))


def _claimed(owner: User) -> ActiveRun:
    worker = make_worker()
    return ActiveRun(make_run(owner, status=Status.RUNNING, worker=worker).pk, worker.pk)


@pytest.fixture
def store(alice: User, threads: DatabaseThreads) -> DataStore:
    return store_of(alice, threads)


@on_both_databases
async def test_get_returns_what_was_set(store: DataStore) -> None:
    values: dict[str, Any] = {
        "text": "ä\u2028\U0001f600",
        "number": 1.5,
        "large": 2**80,
        "null": None,
        "false": False,
        "nested": {"a": [1, {"b": None}], "": 0},
        "empty": "",
    }
    for key, value in values.items():
        await store.set(key, value)
    for key, value in values.items():
        got = await store.get(key, "nothing")
        assert got == value
        assert type(got) is type(value)
    assert await store.get("missing") is None
    assert await store.get("missing", 3) == 3
    assert await store.get_all() == values
    assert list(await store.get_all()) == sorted(values)


@on_both_databases
async def test_a_second_set_replaces_value_and_metadata(
    store: DataStore, threads: DatabaseThreads
) -> None:
    await store.set("k", 1, {"source": "a"})
    first = await threads.run(DataStoreEntry.objects.get)
    await store.set("k", [2])
    second = await threads.run(DataStoreEntry.objects.get)
    assert (first.value, first.metadata) == (1, {"source": "a"})
    assert (second.value, second.metadata) == ([2], {})
    assert second.pk == first.pk
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


@on_both_databases
async def test_set_many_and_get_many_may_exceed_one_statement(
    store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_CHUNK", 7)
    values = {f"k{n:03}": n for n in range(50)}
    assert await store.set_many(values) == 50
    assert await store.get_many([*values, "missing", "k001"]) == values
    assert await store.delete_many([*list(values)[:20], "missing", "k000"]) == 20
    assert await store.list_keys() == list(values)[20:]
    assert await store.set_many({}) == 0
    assert await store.get_many([]) == {}
    assert await store.delete_many([]) == 0


async def test_set_many_writes_all_or_none(
    store: DataStore, threads: DatabaseThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_CHUNK", 2)
    await store.set("k0", "before")
    seen = 0

    def refuse(execute: Any, sql: str, *arguments: Any) -> Any:
        nonlocal seen
        if sql.startswith("INSERT"):
            seen += 1
            if seen == 3:
                raise DataError("out of range")
        return execute(sql, *arguments)

    set_many = OwnerStore._set_many

    def refused(self: OwnerStore, *arguments: Any) -> int:
        with connection.execute_wrapper(refuse):
            return set_many(self, *arguments)

    monkeypatch.setattr(OwnerStore, "_set_many", refused)
    with pytest.raises(InvalidEntry, match="refused this entry: out of range"):
        await store.set_many({f"k{n}": n for n in range(9)})
    assert seen == 3
    assert await store.get_all() == {"k0": "before"}


class TestDatabaseOutage:
    @pytest.fixture
    def away(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Fail as many calls as the list says."""
        left = [0]

        def under_claim(self: OwnerStore, work: Any) -> int:
            if left[0]:
                left[0] -= 1
                raise OperationalError("no connection")
            return before(self, work)

        before = OwnerStore._under_claim
        monkeypatch.setattr(OwnerStore, "_under_claim", under_claim)
        monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.001)
        return left

    async def test_is_waited_out(self, store: DataStore, away: list[int]) -> None:
        away[0] = 5
        await store.set("x", 1)
        assert away[0] == 0
        assert await store.get("x") == 1

    async def test_is_not_waited_out_without_end(
        self, store: DataStore, away: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transactions, "PATIENCE_SECONDS", 0.05)
        away[0] = 10**9
        with pytest.raises(OperationalError):
            await store.set("x", 1)

    @pytest.mark.parametrize("end", ["a stop", "the end of the lease"])
    async def test_is_not_waited_out_beyond(
        self, alice: User, threads: DatabaseThreads, away: list[int], end: str
    ) -> None:
        run = threads.submit(_claimed, alice).result()
        run.token.lease = Lease()
        away[0] = 10**9
        writing = asyncio.create_task(
            OwnerStore(alice.pk, threads, run).set_many("default", {"x": 1}, None)
        )
        while away[0] == 10**9:
            await asyncio.sleep(0.001)
        if end == "a stop":
            run.token.request(reason="enough")
        else:
            run.token.lease.end()
        with pytest.raises(AgentStopped):
            await asyncio.wait_for(writing, 10)


async def test_delete_returns_what_was_there(store: DataStore) -> None:
    await store.set_many({"a": 1, "b": 2, "c": 3})
    assert await store.delete("a") is True
    assert await store.delete("a") is False
    assert await store.clear() == 2
    assert await store.clear() == 0
    assert await store.get_all() == {}


@on_both_databases
async def test_a_prefix_is_literal(store: DataStore) -> None:
    keys = ["a%", "a_", "ab", "A", "ä", "a", "\U0001f600", "a\\", "Z", "aB"]
    await store.set_many(dict.fromkeys(keys, 1))
    assert await store.list_keys() == sorted(keys)
    for prefix in ("a", "a%", "a_", "A", "ä", "\\", "a\\", "\U0001f600"):
        assert await store.list_keys(prefix) == sorted(k for k in keys if k.startswith(prefix))


async def test_namespaces_are_separate(store: DataStore) -> None:
    await store.set("k", "default")
    store.use_namespace("other")
    assert await store.get("k") is None
    await store.set("k", "other")
    assert await store.list_namespaces() == ["default", "other"]
    assert await store.clear() == 1
    assert await store.list_namespaces() == ["default"]
    store.use_namespace("default")
    assert await store.get("k") == "default"


async def test_owners_are_separate(alice: User, bob: User, threads: DatabaseThreads) -> None:
    hers, his = store_of(alice, threads), store_of(bob, threads)
    await hers.set("k", "hers")
    assert await his.get("k") is None
    assert await his.list_namespaces() == []
    await his.set("k", "his")
    assert await his.clear() == 1
    assert await hers.get_all() == {"k": "hers"}


@on_both_databases
async def test_writers_of_the_same_keys_cause_no_deadlock(
    alice: User, threads: DatabaseThreads
) -> None:
    stores = [store_of(alice, threads) for _ in range(4)]
    keys = [f"k{n}" for n in range(20)]

    async def write(n: int) -> None:
        for turn in range(10):
            order = keys if (n + turn) % 2 else keys[::-1]
            await stores[n].set_many(dict.fromkeys(order, n))
            await stores[n].delete_many(order[:5])

    await asyncio.gather(*map(write, range(4)))
    assert await stores[0].get_many(keys[5:15]) != {}


@pytest.mark.parametrize("key", ["", "x" * 501, "a\0b", 3, None])
async def test_a_key_that_cannot_be_held_is_refused(
    key: Any, store: DataStore, threads: DatabaseThreads
) -> None:
    with pytest.raises(InvalidEntry):
        await store.set(key, 1)
    assert not await threads.run(DataStoreEntry.objects.exists)


@on_both_databases
async def test_the_longest_key_can_be_held(store: DataStore) -> None:
    # Any characters, four bytes each: PostgreSQL compresses repetitions.
    letters = random.Random(0).choices(range(0x10000, 0x110000), k=MAX_PLACE_BYTES // 4)
    text = "".join(map(chr, letters))
    store.use_namespace(text[:500])
    await store.set(text[500:], 1)
    assert await store.get(text[500:]) == 1


def test_agents_of_one_owner_share_it_and_of_another_do_not(
    worker: Worker, start: Start, bob: User, log: Journal
) -> None:
    @agent("writer")
    async def writer(tools: Tools) -> None:
        tools.data_store.use_namespace("shared")
        await tools.data_store.set("k", "from the writer")

    @agent("reader")
    async def reader(tools: Tools) -> Any:
        before = await tools.data_store.list_keys()
        tools.data_store.use_namespace("shared")
        return [before, await tools.data_store.get("k")]

    assert log.over(start("writer")).status == Status.SUCCESS
    assert log.over(start("reader")).result == [[], "from the writer"]
    assert log.over(start("reader", owner=bob)).result == [[], None]


@on_both_databases
@pytest.mark.usefixtures("worker")
def test_branches_and_called_agents_have_namespaces_of_their_own(
    start: Start, log: Journal
) -> None:
    @agent("called")
    async def called(tools: Tools) -> None:
        await tools.data_store.set("called", 1)

    @agent("branches")
    async def branches(tools: Tools) -> None:
        switched = asyncio.Event()

        async def first() -> None:
            await switched.wait()
            await tools.data_store.set("first", 1)

        async def second() -> None:
            tools.data_store.use_namespace("b")
            switched.set()
            await tools.data_store.set("second", 1)
            await tools.agents.call("called")
            await tools.data_store.set("third", 1)

        await asyncio.gather(first(), second())

    @agent("threads")
    def threads(tools: SyncTools) -> None:
        tools.data_store.use_namespace("c")
        context = contextvars.copy_context()

        def work() -> None:
            tools.data_store.use_namespace("d")
            tools.data_store.set("in the thread", 1)

        thread = threading.Thread(target=context.run, args=[work])
        thread.start()
        thread.join()
        tools.data_store.set("after", 1)

    assert log.over(start("branches")).status == Status.SUCCESS
    assert log.over(start("threads")).status == Status.SUCCESS
    places = DataStoreEntry.objects.order_by("namespace", "key").values_list("namespace", "key")
    assert list(places) == [
        ("b", "second"),
        ("b", "third"),
        ("c", "after"),
        ("d", "in the thread"),
        ("default", "called"),
        ("default", "first"),
    ]


async def test_closed_threads_leave_no_connection(transactional_db: None) -> None:
    threads = DatabaseThreads(3)
    connections: list[Any] = []

    def note() -> None:
        connection.ensure_connection()
        connections.append(connection.connection)

    used_before = _used_of_the_pool()
    await asyncio.gather(*[threads.run(note) for _ in range(9)])
    threads.close()
    if connection.vendor == "postgresql":
        eventually(lambda: _used_of_the_pool() == used_before, "the pool has them back")
        return
    for one in {id(c): c for c in connections}.values():
        with pytest.raises(Exception, match="closed"):
            one.execute("SELECT 1")


def _used_of_the_pool() -> int:
    """Count the connections of the pool that are in use, if there is a pool."""
    if connection.vendor == "sqlite":
        return 0
    stats = connection.pool.get_stats()  # type: ignore[attr-defined]
    return int(stats["pool_size"] - stats["pool_available"])


async def test_a_broken_connection_is_replaced_for_the_next_call(transactional_db: None) -> None:
    threads = DatabaseThreads(1)

    def break_it() -> None:
        connection.ensure_connection()
        raise OperationalError("server closed the connection unexpectedly")

    def is_new() -> bool:
        return connection.connection is None

    with pytest.raises(OperationalError):
        await threads.run(break_it)
    assert await threads.run(is_new)
    threads.close()
