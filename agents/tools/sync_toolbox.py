"""The tools of ``def`` agents: the same names without await, for a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ..environment import Environment
from .agents.client import AgentClient
from .agents.handle import AgentHandle
from .data_store import DataStore
from .http.client import open_sync_client
from .llm.client import LLMReply
from .notes import Notes
from .toolbox import Tools

if TYPE_CHECKING:
    import httpx

__all__ = ["SyncAgentHandle", "SyncTools"]

T = TypeVar("T")


class SyncDataStore:
    """``DataStore`` for ``def`` agents."""

    def __init__(self, store: DataStore, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._store = store
        self._wait = wait

    def use_namespace(self, name: str) -> None:
        """See ``DataStore.use_namespace``."""
        self._store.use_namespace(name)

    def get(self, key: str, default: Any = None) -> Any:
        """See ``DataStore.get``."""
        return self._wait(self._store.get(key, default))

    def set(self, key: str, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """See ``DataStore.set``."""
        self._wait(self._store.set(key, value, metadata))

    def delete(self, key: str) -> bool:
        """See ``DataStore.delete``."""
        return bool(self._wait(self._store.delete(key)))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """See ``DataStore.get_many``."""
        return dict(self._wait(self._store.get_many(keys)))

    def set_many(self, mapping: Mapping[str, Any]) -> int:
        """See ``DataStore.set_many``."""
        return int(self._wait(self._store.set_many(mapping)))

    def delete_many(self, keys: Iterable[str]) -> int:
        """See ``DataStore.delete_many``."""
        return int(self._wait(self._store.delete_many(keys)))

    def list_keys(self, prefix: str | None = None) -> list[str]:
        """See ``DataStore.list_keys``."""
        return list(self._wait(self._store.list_keys(prefix)))

    def get_all(self) -> dict[str, Any]:
        """See ``DataStore.get_all``."""
        return dict(self._wait(self._store.get_all()))

    def clear(self) -> int:
        """See ``DataStore.clear``."""
        return int(self._wait(self._store.clear()))

    def list_namespaces(self) -> list[str]:
        """See ``DataStore.list_namespaces``."""
        return list(self._wait(self._store.list_namespaces()))


class SyncAgentClient:
    """``AgentClient`` for ``def`` agents."""

    def __init__(
        self, client: AgentClient, wait: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._client = client
        self._wait = wait

    def call(self, name: str, input: object = None) -> Any:
        """See ``AgentClient.call``."""
        return self._wait(self._client.call(name, input))

    def start(self, name: str, input: object = None) -> SyncAgentHandle:
        """See ``AgentClient.start``."""
        return SyncAgentHandle(self._wait(self._client.start(name, input)), self._wait)


class SyncAgentHandle:
    """``AgentHandle`` for ``def`` agents."""

    def __init__(
        self, handle: AgentHandle, wait: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self.agent = handle.agent
        self.run = handle.run
        self._handle = handle
        self._wait = wait

    def __repr__(self) -> str:
        return f"<SyncAgentHandle {self.agent} {self.run}>"

    def wait(self) -> Any:
        """See ``AgentHandle.wait``."""
        return self._wait(self._handle.wait())

    def stop(self, reason: str = "") -> None:
        """See ``AgentHandle.stop``."""
        self._wait(self._handle.stop(reason))

    def leave(self) -> None:
        """See ``AgentHandle.leave``."""
        self._handle.leave()


class SyncTools(Notes):
    """The tools of one run of a ``def`` agent. Not for use on the event loop's own thread."""

    def __init__(self, environment: Environment, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(environment.guard.trace)
        self._environment = environment
        self._loop = loop
        self._tools = Tools(environment)
        self.data_store = SyncDataStore(self._tools.data_store, self._wait)
        self.agents = SyncAgentClient(self._tools.agents, self._wait)

    def call_llm(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> LLMReply:
        """See ``Tools.call_llm``."""
        return self._wait(self._tools.call_llm(messages, model, tools, **parameters))

    @property
    def default_model(self) -> str:
        """See ``Tools.default_model``."""
        return self._tools.default_model

    @cached_property
    def http(self) -> httpx.Client:
        return open_sync_client(self._environment.guard, self._environment.transports)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the agent loop and wait for it in this thread.

        ``run_coroutine_threadsafe`` schedules with a copy of this thread's context, so the token,
        the trace and a surrounding ``cleanup()`` come along.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            work.close()
            raise RuntimeError(
                "SyncTools can't be used on the event loop: it would wait for itself"
            )
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
