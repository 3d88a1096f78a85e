"""What a host gives to the agents that it runs.

The tools guard and trace; through these protocols they reach the world. ``runs`` implements them on
the ORM and the executor, ``agents.testing`` in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .cancellation import StopMode

if TYPE_CHECKING:
    from .guard import Guard
    from .tools.http.client import Transports
    from .tools.llm.client import Model

__all__ = [
    "MAX_DEPTH",
    "AgentCaller",
    "ChildEnd",
    "ChildRun",
    "DataStoreBackend",
    "Environment",
    "StartedRun",
]

MAX_DEPTH = 32  # of a tree of agents; what is deeper is a loop


class DataStoreBackend(Protocol):
    """The entries of one owner. Keys and namespaces are text, values are JSON."""

    async def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values there are; missing keys are left out."""

    async def set_many(
        self, namespace: str, values: Mapping[str, Any], metadata: Mapping[str, Any] | None
    ) -> int:
        """Write all or nothing; return how many were written."""

    async def delete_many(self, namespace: str, keys: Iterable[str]) -> int:
        """Return how many there were."""

    async def list_keys(self, namespace: str, prefix: str) -> list[str]:
        """Return the keys that start with ``prefix``, sorted by code point."""

    async def get_all(self, namespace: str) -> dict[str, Any]: ...

    async def clear(self, namespace: str) -> int:
        """Return how many there were."""

    async def list_namespaces(self) -> list[str]:
        """Return the namespaces that have an entry, sorted by code point."""


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a called agent has ended, as its record has it."""

    status: Literal["success", "error", "stopped"]
    result: Any = None
    error: Mapping[str, Any] | None = None


class ChildRun(Protocol):
    """A called agent that is running."""

    id: str

    async def wait(self) -> ChildEnd:
        """Return once its record is final. Cancelling the wait does not touch the child."""

    def give_up(self) -> None:
        """Ask it to stop because its caller does not wait any longer."""


class StartedRun(Protocol):
    """A run that its caller has started, perhaps on another worker."""

    id: str

    async def wait(self) -> ChildEnd | None:
        """Return once its record is final; None when the host goes away and can't wait for that.

        By then the caller's token is tripped. Cancelling the wait does not touch the child.
        """

    async def ask_to_stop(self, reason: str, mode: StopMode = StopMode.GRACEFUL) -> None:
        """Ask it to stop, on behalf of its caller; does nothing if it is over."""


class AgentCaller(Protocol):
    """Starts agents below a run."""

    async def start(self, name: str, input: object) -> ChildRun:
        """Start a run of agent ``name``; if this raises, no run exists.

        Raises:
            AgentNotFound, InvalidInput, AgentCallTooDeep: the agent can't be called like this.
            AgentStopped: the caller was asked to stop meanwhile.
        """

    async def queue(self, name: str, input: object) -> StartedRun:
        """As ``start``, for a run that any worker may take."""


@dataclass(frozen=True, slots=True)
class Environment:
    """All that one run can reach."""

    guard: Guard
    model: Model
    data_store: DataStoreBackend
    agents: AgentCaller
    transports: Transports
