"""``tools.data_store``: what an agent keeps beyond its run.

The entries belong to the run's owner; all agents of the owner share them. A ``DataStoreBackend``
holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from agents.values import jsonable, storable

from ..environment import DataStoreBackend
from ..exceptions import AgentError
from ..guard import Guard

__all__ = [
    "DEFAULT_NAMESPACE",
    "MAX_KEY_LENGTH",
    "MAX_PLACE_BYTES",
    "DataStore",
    "InvalidEntry",
]

DEFAULT_NAMESPACE = "default"
MAX_KEY_LENGTH = 500  # characters, of keys and of namespaces
#: For a namespace and a key together, as UTF-8. PostgreSQL indexes rows of up to 2,704 bytes.
MAX_PLACE_BYTES = 2_600
T = TypeVar("T")

#: The namespace of each store in this context. Never changed in place: contexts share it.
_namespaces: ContextVar[WeakKeyDictionary[DataStore, str] | None] = ContextVar(
    "agents_data_store_namespaces", default=None
)


class InvalidEntry(AgentError):
    """A key, a namespace or a value that the data store can't hold."""

    code = "invalid_entry"


class DataStore:
    """Entries of the run's owner, in one namespace at a time.

    Keys are text of 1 to 500 characters; with its namespace a key has at most 2,600 bytes of UTF-8.
    Values and metadata are anything that JSON can hold (a NUL character in them becomes U+FFFD).

    Raises:
        AgentStopped: a stop was requested. Every method but ``use_namespace`` is guarded.
        InvalidEntry: a key, a namespace or a value can't be held; nothing was written.
    """

    def __init__(self, guard: Guard, backend: DataStoreBackend) -> None:
        self._guard = guard
        self._backend = backend
        self.use_namespace(DEFAULT_NAMESPACE)

    def use_namespace(self, name: str) -> None:
        """Switch to the namespace ``name``; it need not exist. Not guarded.

        The switch is context-local: it applies to the code that follows in this task or thread, to
        its caller if that awaits it directly, and to the tasks and threads that are started after
        it. Other branches of a ``gather`` or a ``TaskGroup`` keep theirs, and so does the code that
        has started this task or thread. A thread that doesn't have the run's context (a bare
        ``threading.Thread``, a thread pool of the agent's own) begins in the namespace that any
        code of the run has chosen last.
        """
        self._latest = _checked_key(name, "namespace")
        namespaces = WeakKeyDictionary(_namespaces.get())
        namespaces[self] = self._latest
        _namespaces.set(namespaces)

    @property
    def _namespace(self) -> str:
        namespaces = _namespaces.get()
        return self._latest if namespaces is None else namespaces.get(self, self._latest)

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value under ``key``, or ``default``."""
        key = _checked_key(key)
        values = await self._call("get", self._backend.get_many, [key], key=key)
        return values.get(key, default)

    async def set(self, key: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Write ``value`` under ``key``, replacing an earlier value."""
        key = _checked_place(self._namespace, key)
        values = {key: _checked_value(value, key)}
        about = _checked_value(dict(metadata), "metadata") if metadata is not None else None
        await self._call("set", self._backend.set_many, values, about, key=key)

    async def delete(self, key: str) -> bool:
        """Remove the entry; return whether there was one."""
        key = _checked_key(key)
        return await self._call("delete", self._backend.delete_many, [key], key=key) > 0

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of ``keys``; missing keys are left out."""
        wanted = [_checked_key(key) for key in keys]
        return await self._call("get_many", self._backend.get_many, wanted, keys_count=len(wanted))

    async def set_many(self, mapping: Mapping[str, Any]) -> int:
        """Write all entries or none; return how many."""
        values = {
            _checked_place(self._namespace, key): _checked_value(value, key)
            for key, value in mapping.items()
        }
        return await self._call(
            "set_many", self._backend.set_many, values, None, keys_count=len(values)
        )

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Remove entries; return how many there were."""
        wanted = [_checked_key(key) for key in keys]
        return await self._call(
            "delete_many", self._backend.delete_many, wanted, keys_count=len(wanted)
        )

    async def list_keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys that begin with ``prefix`` (all without one), sorted by code point."""
        start = _checked_key(prefix, "prefix") if prefix else ""
        return await self._call("list_keys", self._backend.list_keys, start)

    async def get_all(self) -> dict[str, Any]:
        """Return every entry of the namespace."""
        return await self._call("get_all", self._backend.get_all)

    async def clear(self) -> int:
        """Remove every entry of the namespace; return how many there were."""
        return await self._call("clear", self._backend.clear)

    async def list_namespaces(self) -> list[str]:
        """Return the owner's namespaces that have an entry, sorted by code point."""
        with self._guard.call("data_store.list_namespaces", is_cuttable=False) as call:
            return await call.uninterrupted(self._backend.list_namespaces())

    async def _call(
        self, method: str, work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, **data: Any
    ) -> T:
        """Run ``work`` on the current namespace, as one guarded call; ``data`` is for its event."""
        namespace = self._namespace
        label = f"{namespace}/{data['key']}" if "key" in data else namespace
        tool = f"data_store.{method}"
        # Not cut by an abort: an entry is written or not, and the agent knows which.
        with self._guard.call(tool, label, is_cuttable=False, namespace=namespace, **data) as call:
            return await call.uninterrupted(work(namespace, *arguments))


def _checked_key(key: object, what: str = "key") -> str:
    if not isinstance(key, str):
        raise InvalidEntry(f"a {what} is text, not {type(key).__name__}")
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise InvalidEntry(f"a {what} has 1 to {MAX_KEY_LENGTH} characters, not {len(key)}")
    if storable.check(key):
        raise InvalidEntry(f"a {what} must not have NUL characters or lone surrogates")
    return key


def _checked_place(namespace: str, key: object) -> str:
    """Check a key before a write."""
    key = _checked_key(key)
    size = len(namespace.encode()) + len(key.encode())
    if size > MAX_PLACE_BYTES:
        raise InvalidEntry(
            f"a namespace and a key have at most {MAX_PLACE_BYTES:,} bytes together, not {size:,}"
        )
    return key


def _checked_value(value: object, key: str) -> Any:
    try:
        return jsonable.dump(value)
    except ValueError as error:
        raise InvalidEntry(f"the value for {key!r} can't be stored: {error}") from error
