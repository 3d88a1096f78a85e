"""What an agent is given to reach the world with: every door is guarded.

``Tools`` for agents that are coroutines, ``SyncTools`` (the same names without await) for ``def``
agents, which run in a thread of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ..environment import Environment
from ..trace import Trace
from .agents.client import AgentClient
from .agents.handle import AgentHandle
from .data_store import DataStore
from .http.client import open_client, open_sync_client
from .llm.client import LLMReply, call_llm

if TYPE_CHECKING:
    import httpx

__all__ = ["AgentHandle", "LLMReply", "SyncAgentHandle", "SyncTools", "Tools"]

T = TypeVar("T")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


class _Notes:
    """What both kinds of tools have, and what is not guarded: a ``finally`` may use it."""

    _trace: Trace

    def log(self, message: object, level: str = "info") -> None:
        """Write a line to the run's log.

        ``level`` is one of debug, info, warning, error, critical.
        """
        level = str(level).lower()
        if level not in LOG_LEVELS:
            raise ValueError(f"level is one of {', '.join(LOG_LEVELS)}, not {level!r}")
        self._trace.emit("log", {"level": level, "message": message}, source="agent")

    def progress(self, done: float, total: float | None, message: str = "") -> None:
        """Say how far the run is: ``done`` of ``total`` parts (total None: not known)."""
        data = {"done": done, "total": total, "message": message}
        self._trace.emit("progress", data, source="agent")


class Tools(_Notes):
    """The tools of one run.

    Attributes:
        data_store: entries of the run's owner, see ``DataStore``.
        agents: calls and starts other agents, see ``AgentClient``.
        http: an ``httpx.AsyncClient`` of this run's own; each of its requests is guarded.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._trace = environment.guard.trace
        self.data_store = DataStore(environment.guard, environment.data_store)
        self.agents = AgentClient(environment.guard, environment.agents)

    async def call_llm(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> LLMReply:
        """Ask a model, and return its whole reply; its text is shown as it comes.

        ``messages`` and ``tools`` are as in the OpenAI chat-completions API, ``parameters`` go to
        the endpoint as they are (``temperature=0``). Without ``model`` the configured one.

        Raises:
            AgentStopped: a stop was asked for.
            LLMError: the endpoint refused or failed, after the SDK's retries.
        """
        environment = self._environment
        return await call_llm(
            environment.guard,
            environment.model,
            messages,
            model_name=model,
            tools=tools,
            **parameters,
        )

    @property
    def default_model(self) -> str:
        """The name of the model that ``call_llm`` uses when it is told none. Not guarded."""
        return self._environment.model.default_model

    @cached_property
    def http(self) -> httpx.AsyncClient:
        environment = self._environment
        return open_client(environment.guard, environment.transports)


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


class SyncTools(_Notes):
    """The tools of one run of a ``def`` agent. Not for use on the event loop's own thread."""

    def __init__(self, environment: Environment, loop: asyncio.AbstractEventLoop) -> None:
        self._environment = environment
        self._loop = loop
        self._tools = Tools(environment)
        self._trace = environment.guard.trace
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
