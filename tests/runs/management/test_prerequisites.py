"""What a process asks for before it serves or works."""

from __future__ import annotations

import pytest
from django.core.management import CommandError
from django.db import OperationalError

from runs.management import prerequisites
from runs.management.prerequisites import await_database, require_migrations


@pytest.mark.django_db(transaction=True)
def test_a_database_that_answers_is_not_spoken_of() -> None:
    said: list[str] = []
    await_database(said.append)
    require_migrations()
    assert said == []


def test_a_database_that_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [OperationalError("not\nyet"), OperationalError("not yet"), None]
    monkeypatch.setattr(prerequisites, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(prerequisites, "_complaint", lambda: answers.pop(0))
    said: list[str] = []
    await_database(said.append)
    assert answers == []
    assert len(said) == 1
    assert "waiting for it, for at most 60 s: not yet" in said[0]


def test_a_database_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "_complaint", lambda: OperationalError("no route"))
    with pytest.raises(CommandError, match=r"DATABASE_URL.*no route"):
        await_database(lambda _: None, patience_seconds=0)
