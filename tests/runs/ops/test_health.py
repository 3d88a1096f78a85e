"""Readiness: what makes a process unready, and what it only mentions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import RequestFactory

from runs.ops import health
from runs.ops.probing import ask


@pytest.fixture(autouse=True)
def _all_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_ask_database", lambda: None)
    monkeypatch.setattr(health, "_ask_cache", lambda: None)


def _ready(*, draining: bool = False, **worker: Any) -> tuple[int, dict[str, Any]]:
    """Ask a process whose worker has these facts."""
    given = {"is_fenced": False, "blocked_seconds": 0.0, "abandoned_count": 0, **worker}
    lifespan = SimpleNamespace(is_draining=draining, worker=SimpleNamespace(**given))
    request = RequestFactory().get("/health/ready")
    request.scope = {"state": {"lifespan": lifespan}}  # type: ignore[attr-defined]
    answer = health.ready(request)
    return answer.status_code, json.loads(answer.content)


def test_a_healthy_worker_is_ready() -> None:
    status, said = _ready()
    assert status == 200
    assert said["degraded"] is False
    assert set(said["checks"].values()) == {"ok"}


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"draining": True}, "draining"),
        ({"is_fenced": True}, "lost"),
        ({"draining": True, "is_fenced": True}, "draining"),
    ],
)
def test_a_worker_that_takes_no_runs_is_not_ready(facts: dict[str, Any], word: str) -> None:
    status, said = _ready(**facts)
    assert (status, said["status"]) == (503, "not ready")
    assert said["checks"]["worker"] == word


def test_an_agent_that_blocks_the_others_is_reported() -> None:
    status, said = _ready(blocked_seconds=12.3)
    assert (status, said["degraded"]) == (200, True)
    assert said["checks"]["agents"] == "blocked for 12 s"
    assert _ready(blocked_seconds=0.7)[1]["degraded"] is False


def test_abandoned_code_degrades_the_process_and_no_more() -> None:
    status, said = _ready(abandoned_count=1)
    assert (status, said["status"], said["degraded"]) == (200, "ready", True)
    assert said["checks"]["agents"] == "abandoned_code"


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A database that never answers; yields its calls."""
    asked: list[int] = []
    end = threading.Event()

    def hang() -> None:
        asked.append(1)
        end.wait(30)

    monkeypatch.setattr(health, "_ask_database", hang)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.1)
    yield asked
    end.set()
    ask(hang, 30)


def test_a_database_that_hangs_is_away_and_asked_once(hanging: list[int]) -> None:
    for _ in range(3):
        status, said = _ready()
        assert (status, said["checks"]["database"]) == (503, "away")
    assert len(hanging) == 1
