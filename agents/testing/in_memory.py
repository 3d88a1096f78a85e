"""What the tools of an agent under test reach: no table, no network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx
import httpx2

from agents.tools.http.client import Transports

__all__ = ["AnsweredRequests", "Handler", "MemoryDataStore"]

Handler = Callable[[httpx.Request], httpx.Response]


class MemoryDataStore:
    """A data store in memory; give the same one to several runs to see what they share.

    ``entries`` is namespace -> key -> value: at first, and to look at afterwards.
    """

    def __init__(self, entries: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.entries: dict[str, dict[str, Any]] = {
            namespace: copy.deepcopy(dict(values)) for namespace, values in (entries or {}).items()
        }

    async def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, Any]:
        held = self.entries.get(namespace, {})
        return copy.deepcopy({key: held[key] for key in keys if key in held})

    async def set_many(
        self, namespace: str, values: Mapping[str, Any], metadata: Mapping[str, Any] | None
    ) -> int:
        if values:
            self.entries.setdefault(namespace, {}).update(copy.deepcopy(dict(values)))
        return len(values)

    async def delete_many(self, namespace: str, keys: Iterable[str]) -> int:
        held = self.entries.get(namespace, {})
        found = [key for key in set(keys) if key in held]
        for key in found:
            del held[key]
        if not held:
            self.entries.pop(namespace, None)
        return len(found)

    async def list_keys(self, namespace: str, prefix: str) -> list[str]:
        return sorted(key for key in self.entries.get(namespace, {}) if key.startswith(prefix))

    async def get_all(self, namespace: str) -> dict[str, Any]:
        return copy.deepcopy(self.entries.get(namespace, {}))

    async def clear(self, namespace: str) -> int:
        return len(self.entries.pop(namespace, {}))

    async def list_namespaces(self) -> list[str]:
        return sorted(self.entries)


class AnsweredRequests(Transports):
    """Transports whose requests a function answers; without one, each is refused."""

    def __init__(self, handler: Handler | None) -> None:
        super().__init__()
        self._mock = httpx.MockTransport(handler or _refuse)

    def http_async(self) -> httpx.AsyncBaseTransport:
        return self._mock

    def httpx2_async(self) -> httpx2.AsyncBaseTransport:
        return httpx2.MockTransport(lambda request: httpx2.Response(503))


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no network in tests: running(..., http=function)", request=request)
