"""The agents' data store on the ORM: the entries of one owner.

A run writes only while its claim is good. An agent whose worker was declared lost may run for a
moment longer; it must not overwrite what the next attempt, or another run, has written since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from django.db import Error
from django.db.models import QuerySet
from django.utils import timezone

from agents.cancellation import StopCause
from agents.exceptions import QuotaExceeded as AgentQuotaExceeded
from agents.tools.data_store import InvalidEntry
from runs.db.alias import connection, on_commit
from runs.db.query_plans import by_key
from runs.db.statements import as_parameter
from runs.db.threads import DatabaseThreads
from runs.db.transactions import in_transaction, is_away, patiently, refusal_text
from runs.db.users import key_as_parameter
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import LeaseLost, QuotaExceeded
from runs.models import DataStoreEntry
from runs.quotas import ledger
from runs.quotas.sizes import size_of_entry

__all__ = ["OwnerStore"]

T = TypeVar("T")
_FROM = "FROM runs_datastoreentry WHERE owner_id = %s AND namespace = %s"
_CHUNK = 500  # keys in one statement: databases bound the number of parameters


class OwnerStore:
    """A ``DataStoreBackend`` for one claimed run of one owner.

    A write after the claim was lost changes nothing: it trips the run's token and raises
    AgentStopped. A write beyond a quota of the owner changes nothing, and raises the agents'
    QuotaExceeded; to delete, or to write less than before, is never refused.
    A write that the database refuses raises InvalidEntry.
    """

    def __init__(self, owner_id: Any, database: DatabaseThreads, run: ActiveRun) -> None:
        self._owner_id = owner_id
        self._database = database
        self._run = run

    async def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, Any]:
        return await self._ask(partial(self._get_many, namespace, keys))

    async def set_many(
        self, namespace: str, values: Mapping[str, Any], metadata: Mapping[str, Any] | None
    ) -> int:
        return await self._write(partial(self._set_many, namespace, values, metadata))

    async def delete_many(self, namespace: str, keys: Iterable[str]) -> int:
        return await self._write(partial(self._delete_many, namespace, list(keys)))

    async def list_keys(self, namespace: str, prefix: str) -> list[str]:
        return await self._ask(partial(self._list_keys, namespace, prefix))

    async def get_all(self, namespace: str) -> dict[str, Any]:
        return await self._ask(partial(self._get_all, namespace))

    async def clear(self, namespace: str) -> int:
        return await self._write(partial(self._clear, namespace))

    async def list_namespaces(self) -> list[str]:
        return await self._ask(self._list_namespaces)

    async def _ask(self, work: Callable[[], T]) -> T:
        """Call ``work`` in a database thread; repeat it while the database is away.

        Every operation of a store may be repeated, even if only its answer was lost. The end of the
        lease and a stop request end the repetition: the agent then gets AgentStopped.
        """
        return await patiently(
            partial(self._database.run, work),
            before_retry=partial(self._run.token.admit, "data_store"),
        )

    async def _write(self, work: Callable[[], int]) -> int:
        try:
            return await self._ask(partial(self._under_claim, work))
        except LeaseLost as lost:
            token = self._run.token
            token.request(reason=str(lost), cause=StopCause.SHUTDOWN)
            token.refuse("data_store")
        except QuotaExceeded as error:
            raise AgentQuotaExceeded(
                f"Nothing was written. {error}",
                code=error.code,
                used=error.used,
                allowed=error.allowed,
            ) from error
        except Error as error:
            if is_away(error):
                raise
            raise InvalidEntry(f"the database refused this entry: {refusal_text(error)}") from error

    def _under_claim(self, work: Callable[[], int]) -> int:
        def write() -> int:
            count = work()
            # Last: the recorder needs the row that this locks, and then waits for the commit only.
            if not _holds(self._run):
                raise LeaseLost("the claim was lost")
            return count

        return in_transaction(write)

    def _entries(self, namespace: str) -> QuerySet[DataStoreEntry]:
        return DataStoreEntry.objects.filter(owner=self._owner_id, namespace=namespace)

    def _get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for chunk in _chunks(keys):
            found.update(self._entries(namespace).filter(key__in=chunk).values_list("key", "value"))
        return {key: found[key] for key in keys if key in found}

    def _set_many(
        self, namespace: str, values: Mapping[str, Any], metadata: Mapping[str, Any] | None
    ) -> int:
        now = timezone.now()
        rows = [
            DataStoreEntry(
                owner_id=self._owner_id,
                namespace=namespace,
                key=key,
                value=value,
                metadata=metadata or {},
                size_bytes=size_of_entry(namespace, key, value, metadata),
                created_at=now,
                updated_at=now,
            )
            # Sorted, so that two writers of the same keys don't wait for each other.
            for key, value in sorted(values.items())
        ]
        keys_count, replaced_bytes = self._measure(namespace, [row.key for row in rows])
        added_bytes = sum(row.size_bytes for row in rows) - replaced_bytes
        added_keys = len(rows) - keys_count
        ledger.check(self._owner_id, added_bytes, added_keys)
        DataStoreEntry.objects.bulk_create(
            rows,
            batch_size=_CHUNK,
            update_conflicts=True,
            unique_fields=["owner", "namespace", "key"],
            update_fields=["value", "metadata", "size_bytes", "updated_at"],
        )
        self._note(added_bytes, added_keys)
        return len(rows)

    def _measure(self, namespace: str, keys: Sequence[str]) -> tuple[int, int]:
        """Return how many of the keys there are, and the bytes of their entries.

        Keeps other writers from deleting them before the caller's transaction is over: they would
        be counted as replaced, and be new.
        """
        lock = connection.features.has_select_for_update
        order = 'ORDER BY key COLLATE "C" FOR UPDATE' if lock else ""
        sizes: list[int] = []
        with connection.cursor() as cursor:
            for chunk in _chunks(keys):
                sql = f"SELECT size_bytes {_FROM} AND key IN ({_places(chunk)}) {order}"
                cursor.execute(sql, [key_as_parameter(self._owner_id), namespace, *chunk])
                sizes += [size for (size,) in cursor.fetchall()]
        return len(sizes), sum(sizes)

    def _delete_many(self, namespace: str, keys: Sequence[str]) -> int:
        return sum(
            self._delete(namespace, f"AND key IN ({_places(chunk)})", chunk)
            for chunk in _chunks(sorted(set(keys)))
        )

    def _delete(self, namespace: str, condition: str = "", keys: Sequence[str] = ()) -> int:
        with connection.cursor() as cursor:
            sql = f"DELETE {_FROM} {condition} RETURNING size_bytes"
            cursor.execute(sql, [key_as_parameter(self._owner_id), namespace, *keys])
            sizes = [size for (size,) in cursor.fetchall()]
        self._note(-sum(sizes), -len(sizes))
        return len(sizes)

    def _note(self, stored_bytes: int, keys_count: int) -> None:
        """Add to the owner's usage, if the caller's transaction is committed."""
        on_commit(lambda: ledger.add(self._owner_id, stored_bytes, keys_count))

    def _list_keys(self, namespace: str, prefix: str) -> list[str]:
        keys = self._entries(namespace).values_list("key", flat=True)
        # Not LIKE: on SQLite it ignores case, and collations compare prefixes differently.
        return sorted(key for key in keys if key.startswith(prefix))

    def _get_all(self, namespace: str) -> dict[str, Any]:
        return dict(sorted(self._entries(namespace).values_list("key", "value")))

    def _clear(self, namespace: str) -> int:
        return self._delete(namespace)

    def _list_namespaces(self) -> list[str]:
        mine = DataStoreEntry.objects.filter(owner=self._owner_id)
        return sorted(mine.values_list("namespace", flat=True).distinct())


def _chunks(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))


def _places(keys: Sequence[str]) -> str:
    return ", ".join(["%s"] * len(keys))


_HELD = """
SELECT 1 FROM runs_runrecord AS run
WHERE {held} AND EXISTS (
    SELECT 1 FROM runs_workerrecord AS worker
    WHERE worker.id = run.worker_id AND worker.lost_at IS NULL
)
"""
_OF_ITS_CLAIM = by_key("worker_id = %s AND attempt = %s AND status = 'running'")


def _holds(run: ActiveRun) -> bool:
    """Tell whether the claim is good, and keep it good until the caller's transaction is over.

    The recovery declares the worker lost, then locks the run's row. So it waits for this
    transaction, or this query sees the loss. SQLite has one writer at a time.
    """
    lock = "FOR SHARE" if connection.features.has_select_for_update else ""
    parameters = [as_parameter(run.id), as_parameter(run.worker), run.attempt]
    with connection.cursor() as cursor:
        cursor.execute(f"{_HELD.format(held=_OF_ITS_CLAIM)} {lock}", parameters)
        return cursor.fetchone() is not None
