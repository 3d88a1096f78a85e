"""The instant by which a queued run must have started."""

from __future__ import annotations

from datetime import datetime, timedelta

from agents import registry
from agents.exceptions import AgentNotFound
from runs.conf import conf

__all__ = ["deadline"]


def deadline(agent: str, since: datetime) -> datetime | None:
    """Return by when a run that is queued at ``since`` must have started; None for no limit."""
    try:
        seconds = registry.get(agent).options.queue_seconds
    except AgentNotFound:  # a process without this agent requeues the run
        seconds = None
    if seconds is None:
        seconds = conf().queue_seconds
    return since + timedelta(seconds=seconds) if seconds else None
