"""Frames as the live feed sends them, made by hand: for what draws them, without a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from runs.wording.status import look

__all__ = ["BEGIN", "at", "event", "run_frame"]

BEGIN = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
Frame = dict[str, Any]


def at(seconds: float) -> str:
    """Return the instant so many seconds after the beginning of the story."""
    return (BEGIN + timedelta(seconds=seconds)).isoformat()


def run_frame(
    id: str,
    agent: str = "reader",
    status: str = "running",
    *,
    parent: str | None = None,
    began: float = 0,
    ended: float | None = None,
    **words: Any,
) -> Frame:
    """Return a snapshot of a run that was created and started ``began`` seconds in."""
    looks = look(status)
    run = {
        "id": id,
        "agent": agent,
        "status": status,
        "parent": parent,
        "created_at": at(began),
        "started_at": None if status == "queued" else at(began),
        "finished_at": None if ended is None else at(ended),
        "in_flight": [],
    }
    said = {"status": {"label": str(looks.label), "tone": looks.tone}, "waiting": None}
    return {
        "type": "run",
        "run": run,
        "words": said | {"silent": None, "usage": "", "usage_tree": ""} | words,
    }


def event(run: str, seq: int, type: str, seconds: float | None = None, /, **data: Any) -> Frame:
    """Return an event of a run; without ``seconds`` the first one is one second in, and so on."""
    body = {
        "run": run,
        "seq": seq,
        "ts": at(seq if seconds is None else seconds),
        "type": type,
        "agent": "reader",
        "depth": 0,
        "source": "agent",
        "data": data,
    }
    return {"type": "trace", "event": body}
