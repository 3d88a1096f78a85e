"""How many runs of one agent, and of one owner, may run at a time in the whole installation.

Running runs that hold a slot count: those that were claimed from the queue. An agent that another
one calls in its own process holds no slot, or the two could wait for each other for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agents import registry
from runs.conf import conf
from runs.db.alias import connection
from runs.db.users import key_as_read
from runs.models import RunRecord

__all__ = [
    "NO_LIMITS",
    "Limits",
    "Obstacle",
    "Slots",
    "find_obstacle",
    "limits",
    "taken_slots",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits; false if there are none.

    Attributes:
        of_agents: for the agents that have a limit.
        per_owner: for each owner; 0 for no limit.
    """

    of_agents: Mapping[str, int] = field(default_factory=dict)
    per_owner: int = 0

    def __bool__(self) -> bool:
        return bool(self.of_agents) or self.per_owner > 0


NO_LIMITS = Limits()


def limits() -> Limits:
    """Return the limits of this process's agents and settings."""
    options = {definition.name: definition.options for definition in registry.all()}
    of_agents = {
        name: given.max_concurrent
        for name, given in options.items()
        if given.max_concurrent is not None
    }
    return Limits(of_agents, conf().max_per_owner)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a queued run can't start on any worker: ``taken`` of ``limit`` slots are in use."""

    of: Literal["agent", "owner"]
    taken: int
    limit: int


@dataclass(slots=True)
class Slots:
    """How many slots were taken at one moment, by agent and by owner."""

    limits: Limits
    by_agent: Counter[str] = field(default_factory=Counter)
    by_owner: Counter[Any] = field(default_factory=Counter)

    def obstacle(self, agent: str, owner_id: Any) -> Obstacle | None:
        """Return the limit that keeps a run of that agent and owner from a slot, if any."""
        limit, taken = self.limits.of_agents.get(agent), self.by_agent[agent]
        if limit is not None and taken >= limit:
            return Obstacle("agent", taken, limit)
        limit, taken = self.limits.per_owner, self.by_owner[owner_id]
        if limit and taken >= limit:
            return Obstacle("owner", taken, limit)
        return None

    def take(self, agent: str, owner_id: Any) -> None:
        self.by_agent[agent] += 1
        self.by_owner[owner_id] += 1

    def full_agents(self) -> list[str]:
        of_agents = self.limits.of_agents
        return [name for name, limit in of_agents.items() if self.by_agent[name] >= limit]

    def full_owners(self) -> list[Any]:
        limit = self.limits.per_owner
        return [owner for owner, taken in self.by_owner.items() if limit and taken >= limit]


# Constants, not parameters: SQLite uses a partial index only if the statement has its condition.
_TAKEN = """
SELECT owner_id, agent, COUNT(*) FROM runs_runrecord
WHERE status = 'running' AND holds_slot GROUP BY owner_id, agent
"""


def taken_slots(limits: Limits) -> Slots:
    """Count the slots that are taken now; reads one index only."""
    slots = Slots(limits)
    with connection.cursor() as cursor:
        cursor.execute(_TAKEN)
        for owner_id, agent, count in cursor.fetchall():
            slots.by_agent[agent] += count
            slots.by_owner[key_as_read(owner_id)] += count
    return slots


def find_obstacle(run: RunRecord) -> Obstacle | None:
    """Return the limit that keeps a queued run waiting; None if it just waits for a worker."""
    allowed = limits()
    if not allowed or not run.holds_slot:
        return None
    return taken_slots(allowed).obstacle(run.agent, run.owner_id)
