"""What a run that a limit has stopped looks like."""

from __future__ import annotations

from datetime import timedelta

from runs.db.clock import database_now
from runs.models import RunRecord
from tests.support.consistency import assert_consistent

__all__ = ["SHORT", "ended_by", "hurry"]

SHORT = 1.0  # seconds


def hurry(run: RunRecord) -> None:
    """Let a run that has started reach its deadline soon, however long its start has taken.

    As another process would: without a message.
    """
    at = database_now() + timedelta(seconds=SHORT)
    RunRecord.objects.filter(pk=run.pk).update(deadline_at=at, deadline_seconds=SHORT)


def ended_by(run: RunRecord, kind: str = "wall", limit: float = SHORT) -> RunRecord:
    """Check that a limit has stopped a run, and not too early; return its record."""
    record = assert_consistent(run)
    assert (record.status, record.stop_via, record.stop_requested_by) == ("stopped", "budget", None)
    reached = record.stop_limit
    assert (reached["kind"], reached["scope"], reached["limit"]) == (kind, "run", limit)
    assert reached["value"] >= limit
    assert reached["evidence"] == []
    if kind == "wall":
        assert record.stop_requested_at >= record.deadline_at, "too early"
        assert record.stop_requested_at < record.deadline_at + timedelta(seconds=1)
    return record
