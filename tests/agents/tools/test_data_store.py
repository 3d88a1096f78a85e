"""tools.data_store: as agents see it, on a backend in memory."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import pytest

from agents import AgentStopped
from agents.exceptions import AgentError
from agents.testing import MemoryDataStore
from agents.tools.data_store import MAX_KEY_LENGTH, MAX_PLACE_BYTES, DataStore, InvalidEntry
from tests.support.agent_run import AgentRun, within

SECONDS = 10.0


class Backend(MemoryDataStore):
    """Notes which metadata came, and in how many calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    async def set_many(self, namespace: str, values: Any, metadata: Any) -> int:
        self.calls.append((namespace, metadata))
        return await super().set_many(namespace, values, metadata)


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def store(run: AgentRun, backend: Backend) -> DataStore:
    return DataStore(run.guard, backend)


async def test_what_was_set_is_there_until_it_is_deleted(store: DataStore) -> None:
    assert await store.get("a") is None
    assert await store.get("a", "default") == "default"
    assert await store.set("a", {"n": [1, 2]}) is None
    assert await store.get("a", "default") == {"n": [1, 2]}
    await store.set("a", None)
    assert await store.get("a", "default") is None
    assert await store.delete("a") is True
    assert await store.delete("a") is False


async def test_many_at_once(store: DataStore) -> None:
    assert await store.set_many({"b": 2, "a": 1, "ab": 3}) == 3
    assert await store.get_many(["a", "b", "no"]) == {"a": 1, "b": 2}
    assert await store.get_many(key for key in ("a",)) == {"a": 1}
    assert await store.list_keys() == ["a", "ab", "b"]
    assert await store.list_keys("") == ["a", "ab", "b"]
    assert await store.list_keys("a") == ["a", "ab"]
    assert await store.get_all() == {"a": 1, "b": 2, "ab": 3}
    assert await store.delete_many(["a", "a", "no"]) == 1
    assert await store.clear() == 2
    assert await store.get_all() == {}
    assert await store.set_many({}) == 0
    assert await store.get_many([]) == {}
    assert await store.delete_many([]) == 0


async def test_each_namespace_holds_its_own(store: DataStore, run: AgentRun) -> None:
    await store.set("a", 1)
    store.use_namespace("mine")
    assert await store.get("a") is None
    await store.set("a", 2)
    assert await store.list_namespaces() == ["default", "mine"]
    assert await store.clear() == 1
    store.use_namespace("default")
    assert await store.get("a") == 1
    assert await store.list_namespaces() == ["default"]


async def test_a_namespace_is_chosen_at_the_call_and_not_later(
    run: AgentRun, backend: Backend
) -> None:
    store = DataStore(run.guard, backend)
    writing = asyncio.create_task(store.set("a", 1))
    await asyncio.sleep(0)
    store.use_namespace("later")
    await within(SECONDS, writing)
    assert list(backend.entries) == ["default"]


async def test_a_namespace_that_was_refused_changes_nothing(
    store: DataStore, backend: Backend
) -> None:
    store.use_namespace("mine")
    for name in ("", "x" * (MAX_KEY_LENGTH + 1), "\x00", 7):
        with pytest.raises(InvalidEntry, match="namespace"):
            store.use_namespace(name)  # type: ignore[arg-type]
    await store.set("a", 1)
    assert list(backend.entries) == ["mine"]


async def test_metadata_goes_with_the_entry(store: DataStore, backend: Backend) -> None:
    await store.set("a", 1, {"source": "x"})
    await store.set("a", 1)
    await store.set_many({"a": 1})
    assert backend.calls == [("default", {"source": "x"}), ("default", None), ("default", None)]


BAD_KEYS = ["", "x" * (MAX_KEY_LENGTH + 1), "nul\x00", "lone \ud800", 7, None, b"bytes"]


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
@pytest.mark.parametrize(
    "use",
    [
        lambda store, key: store.get(key),
        lambda store, key: store.set(key, 1),
        lambda store, key: store.delete(key),
        lambda store, key: store.get_many(["a", key]),
        lambda store, key: store.set_many({"a": 1, key: 1}),
        lambda store, key: store.delete_many(["a", key]),
    ],
)
async def test_a_key_that_cant_be_held_is_refused_and_nothing_is_written(
    store: DataStore, backend: Backend, run: AgentRun, use: Callable[..., Any], key: Any
) -> None:
    with pytest.raises(InvalidEntry, match="key"):
        await use(store, key)
    assert backend.entries == {}
    assert run.sink.events == []


async def test_the_longest_key_is_held(store: DataStore) -> None:
    key = "☃" * MAX_KEY_LENGTH
    await store.set(key, 1)
    assert await store.list_keys(key) == [key]
    with pytest.raises(InvalidEntry, match="prefix"):
        await store.list_keys(key + "x")


async def test_a_key_and_its_namespace_have_a_length_together(store: DataStore) -> None:
    store.use_namespace("☃" * MAX_KEY_LENGTH)
    longest = "☃" * 350 + "x" * (MAX_PLACE_BYTES - 3 * MAX_KEY_LENGTH - 3 * 350)
    await store.set(longest, 1)
    too_long = f"{longest}x"
    with pytest.raises(InvalidEntry, match="2,600 bytes together, not 2,601"):
        await store.set(too_long, 1)
    with pytest.raises(InvalidEntry, match="2,600 bytes together, not 2,601"):
        await store.set_many({"a": 1, too_long: 2})
    assert await store.get_all() == {longest: 1}
    assert await store.get(too_long) is None


@pytest.mark.parametrize("value", [float("nan"), object(), {"deep": {1: object}}, (n for n in [])])
async def test_a_value_that_json_cant_hold_is_refused_and_nothing_is_written(
    store: DataStore, backend: Backend, value: Any
) -> None:
    with pytest.raises(InvalidEntry, match="can't be stored"):
        await store.set("a", value)
    with pytest.raises(InvalidEntry):
        await store.set_many({"b": 1, "a": value})
    assert backend.entries == {}


async def test_metadata_that_json_cant_hold_is_refused(store: DataStore, backend: Backend) -> None:
    with pytest.raises(InvalidEntry, match="metadata"):
        await store.set("a", 1, {"about": object()})
    assert backend.entries == {}


async def test_a_value_is_kept_as_the_json_that_it_was(store: DataStore) -> None:
    value = {"at": datetime.date(2026, 1, 2), "tuple": (1, 2), "nul": "a\x00b"}
    await store.set("a", value)
    value["tuple"] = "changed"
    assert await store.get("a") == {"at": "2026-01-02", "tuple": [1, 2], "nul": "a\ufffdb"}


async def test_events_tell_the_key_or_how_many_and_never_a_value(
    store: DataStore, run: AgentRun
) -> None:
    store.use_namespace("mine")
    await store.set("a", "a private matter")
    await store.get("a")
    await store.set_many({"b": "a private matter", "c": 1})
    await store.list_keys("b")
    await store.list_namespaces()
    recorded = [
        {k: v for k, v in data.items() if k not in ("call", "started_at", "duration_ms")}
        for data in run.events("data_store")
    ]
    many = {"label": "mine", "outcome": "ok", "namespace": "mine"}
    one = {"label": "mine/a", "outcome": "ok", "namespace": "mine", "key": "a"}
    assert recorded == [
        {"tool": "data_store.set", **one},
        {"tool": "data_store.get", **one},
        {"tool": "data_store.set_many", **many, "keys_count": 2},
        {"tool": "data_store.list_keys", **many},
        {"tool": "data_store.list_namespaces", "label": "", "outcome": "ok"},
    ]
    assert "private" not in str(run.sink.events)


async def test_an_error_of_the_backend_comes_out_and_is_in_the_event(run: AgentRun) -> None:
    class Broken(MemoryDataStore):
        async def get_all(self, namespace: str) -> dict[str, Any]:
            raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        await DataStore(run.guard, Broken()).get_all()
    assert run.only("data_store")["error"] == {"type": "OSError", "message": "no database"}


async def test_a_write_that_is_in_flight_at_the_stop_is_finished(run: AgentRun) -> None:
    writing, may_write = asyncio.Event(), asyncio.Event()

    class Slow(Backend):
        async def set_many(self, *args: Any) -> int:
            writing.set()
            await may_write.wait()
            return await super().set_many(*args)

    backend = Slow()
    store = DataStore(run.guard, backend)
    task = run.task(store.set("a", 1))
    await within(SECONDS, writing.wait())
    [call] = run.trace.in_flight()
    assert (call["tool"], call["label"]) == ("data_store.set", "default/a")
    run.stop()
    task.cancel()
    may_write.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert backend.entries == {"default": {"a": 1}}
    with pytest.raises(AgentStopped):
        await store.get("a")


def test_what_it_refuses_is_an_error_of_ours_with_a_code() -> None:
    assert issubclass(InvalidEntry, AgentError)
    assert InvalidEntry.code == "invalid_entry"
