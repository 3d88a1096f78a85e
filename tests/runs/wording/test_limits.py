"""What people read about the limits of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runs.wording.limits import limits_text, reached_text
from runs.wording.receipt import sentences

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"kind": "wall", "scope": "run", "limit": 60.0}, "It reached its deadline of 60 s."),
        ({"kind": "wall", "scope": "run", "limit": 0.5}, "It reached its deadline of 0.5 s."),
        ({"kind": "wall", "scope": "run", "limit": 3600}, "It reached its deadline of 1:00:00."),
        (
            {"kind": "wall", "scope": "tree", "limit": 60},
            "A run above it reached its deadline of 60 s.",
        ),
        ({"kind": "idle", "scope": "run", "limit": 5}, "It showed no sign of life for 5 s."),
        ({"kind": "of a later release", "scope": "run", "limit": 5}, ""),
        ({"kind": "wall", "scope": "run", "limit": None}, ""),
        (None, ""),
    ],
)
def test_the_limit_that_was_reached(limit: Any, words: str) -> None:
    assert reached_text({"limit": limit}) == words


def test_the_limits_that_a_run_has() -> None:
    limits = {"deadline_seconds": 300.0, "idle_seconds": 5.0, "call_seconds": 20.0}
    assert limits_text(limits) == "5:00 in all · 5 s without a sign of life · 20 s in a call"
    assert limits_text(dict.fromkeys(limits)) == ""


def _run(status: str, **stop: Any) -> dict[str, Any]:
    at = T0.isoformat()
    given = {
        "mode": "graceful",
        "reason": "the deadline was reached",
        "via": "budget",
        "requested_by": None,
        "requested_at": at,
        "acknowledged_at": at,
        "observed_at": (T0 + timedelta(seconds=0.3)).isoformat(),
        "limit": {"kind": "wall", "scope": "run", "limit": 60, "value": 60.2, "evidence": []},
        **stop,
    }
    return {"id": "r", "status": status, "started_at": at, "in_flight": [], "stop": given}


@pytest.mark.parametrize(
    ("status", "beginning"),
    [
        (
            "stopped",
            "Stopped by its budget at 14:03:22. It reached its deadline of 60 s."
            " It took effect 300 ms later. Nothing was started after that.",
        ),
        (
            "success",
            "A stop was asked for at 14:03:22, but the run had already done its work."
            " It reached its deadline of 60 s.",
        ),
        ("stopping", "A stop was asked for at 14:03:22. It reached its deadline of 60 s."),
    ],
)
def test_the_receipt_says_it(status: str, beginning: str) -> None:
    assert " ".join(sentences(_run(status))).startswith(beginning)
