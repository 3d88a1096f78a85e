"""The agents' data store on the ORM: the entries of one owner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from .database import DatabaseThreads
from .models import DataStoreEntry

__all__ = ["OwnerStore"]

_CHUNK = 500  # keys in one statement: databases bound the number of parameters


class OwnerStore:
    """A ``DataStoreBackend`` for the runs of one owner."""

    def __init__(self, owner_id: Any, database: DatabaseThreads) -> None:
        self._owner_id = owner_id
        self._database = database

    async def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, Any]:
        return await self._database.run(self._get_many, namespace, keys)

    async def set_many(
        self, namespace: str, values: Mapping[str, Any], metadata: Mapping[str, Any] | None
    ) -> int:
        return await self._database.run(self._set_many, namespace, values, metadata)

    async def delete_many(self, namespace: str, keys: Iterable[str]) -> int:
        return await self._database.run(self._delete_many, namespace, list(keys))

    async def list_keys(self, namespace: str, prefix: str) -> list[str]:
        return await self._database.run(self._list_keys, namespace, prefix)

    async def get_all(self, namespace: str) -> dict[str, Any]:
        return await self._database.run(self._get_all, namespace)

    async def clear(self, namespace: str) -> int:
        return await self._database.run(self._clear, namespace)

    async def list_namespaces(self) -> list[str]:
        return await self._database.run(self._list_namespaces)

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
                created_at=now,
                updated_at=now,
            )
            # In one order, so that two writers of the same keys don't wait for each other.
            for key, value in sorted(values.items())
        ]
        with transaction.atomic():
            DataStoreEntry.objects.bulk_create(
                rows,
                batch_size=_CHUNK,
                update_conflicts=True,
                unique_fields=["owner", "namespace", "key"],
                update_fields=["value", "metadata", "updated_at"],
            )
        return len(rows)

    def _delete_many(self, namespace: str, keys: Sequence[str]) -> int:
        with transaction.atomic():
            return sum(
                self._entries(namespace).filter(key__in=chunk).delete()[0]
                for chunk in _chunks(sorted(set(keys)))
            )

    def _list_keys(self, namespace: str, prefix: str) -> list[str]:
        keys = self._entries(namespace).values_list("key", flat=True)
        # Not LIKE: SQLite's ignores case, and collations differ in what "begins with" means.
        return sorted(key for key in keys if key.startswith(prefix))

    def _get_all(self, namespace: str) -> dict[str, Any]:
        return dict(sorted(self._entries(namespace).values_list("key", "value")))

    def _clear(self, namespace: str) -> int:
        return self._entries(namespace).delete()[0]

    def _list_namespaces(self) -> list[str]:
        mine = DataStoreEntry.objects.filter(owner=self._owner_id)
        return sorted(mine.values_list("namespace", flat=True).distinct())


def _chunks(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))
