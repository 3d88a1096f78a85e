"""The tools of ``def`` agents, for threads: the same names without ``await``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from ..environment import Environment
from ..process.threads import waiting
from .agents.client import AgentClient
from .agents.handle import AgentHandle
from .data_store import DataStore
from .http.client import open_sync_client
from .notes import Notes
from .toolbox import Tools

if TYPE_CHECKING:
    import httpx

__all__ = ["SyncAgentHandle", "SyncTools"]

P = ParamSpec("P")
T = TypeVar("T")
Wait: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]


def _waiting(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """Make the method that runs ``method`` of ``self._inner`` and waits for its result."""

    @wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._wait(method(self._inner, *args, **kwargs))
        return result

    return call


class _Sync:
    def __init__(self, inner: Any, wait: Wait) -> None:
        self._inner = inner
        self._wait = wait


class SyncDataStore(_Sync):
    """``DataStore`` for ``def`` agents."""

    _inner: DataStore

    def use_namespace(self, name: str) -> None:
        """See ``DataStore.use_namespace``."""
        self._inner.use_namespace(name)

    get = _waiting(DataStore.get)
    set = _waiting(DataStore.set)
    delete = _waiting(DataStore.delete)
    get_many = _waiting(DataStore.get_many)
    set_many = _waiting(DataStore.set_many)
    delete_many = _waiting(DataStore.delete_many)
    list_keys = _waiting(DataStore.list_keys)
    get_all = _waiting(DataStore.get_all)
    clear = _waiting(DataStore.clear)
    list_namespaces = _waiting(DataStore.list_namespaces)


class SyncAgentClient(_Sync):
    """``AgentClient`` for ``def`` agents."""

    _inner: AgentClient

    call = _waiting(AgentClient.call)

    def start(self, name: str, input: object = None) -> SyncAgentHandle:
        """See ``AgentClient.start``."""
        return SyncAgentHandle(self._wait(self._inner.start(name, input)), self._wait)


class SyncAgentHandle(_Sync):
    """``AgentHandle`` for ``def`` agents."""

    _inner: AgentHandle

    def __init__(self, handle: AgentHandle, wait: Wait) -> None:
        super().__init__(handle, wait)
        self.agent = handle.agent
        self.run = handle.run

    def __repr__(self) -> str:
        return f"<SyncAgentHandle {self.agent} {self.run}>"

    wait = _waiting(AgentHandle.wait)
    stop = _waiting(AgentHandle.stop)

    def leave(self) -> None:
        """See ``AgentHandle.leave``."""
        self._inner.leave()


class SyncTools(Notes):
    """The tools of one run of a ``def`` agent. Not for the event loop's own thread."""

    def __init__(self, environment: Environment, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(environment.guard)
        self._environment = environment
        self._loop = loop
        self._inner = Tools(environment)
        self.data_store = SyncDataStore(self._inner.data_store, self._wait)
        self.agents = SyncAgentClient(self._inner.agents, self._wait)

    call_llm = _waiting(Tools.call_llm)  # type: ignore[arg-type]  # ``parameters`` may have a self

    process = _waiting(Tools.process)

    @property
    def default_model(self) -> str:
        """See ``Tools.default_model``."""
        return self._inner.default_model

    @cached_property
    def http(self) -> httpx.Client:
        environment = self._environment
        return open_sync_client(environment.guard, environment.transports, self._wait)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the agents' loop and wait for it in this thread.

        ``run_coroutine_threadsafe`` copies this thread's context: token, trace and ``cleanup()``.
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
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the process ends, and the loop is closed
            work.close()
            raise
        with waiting():
            return future.result()
