"""Options of the database that the site has not set; tests/installed has whole sites without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runs.db import options
from runs.process.names import own_session_name


def _completed(vendor: str, given: dict[str, Any], patch: pytest.MonkeyPatch) -> dict[str, Any]:
    database = SimpleNamespace(vendor=vendor, settings_dict={"OPTIONS": given})
    patch.setattr(options, "connection", database)
    options.complete_options()
    return given


def test_sqlite_takes_several_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _completed("sqlite", {}, monkeypatch)
    assert found["transaction_mode"] == "IMMEDIATE"
    assert found["timeout"] == 20
    assert "journal_mode=WAL" in found["init_command"]


def test_what_the_site_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"transaction_mode": None, "timeout": 1, "init_command": ""}
    assert _completed("sqlite", dict(own), monkeypatch) == own
    own = {"application_name": "mysite"}
    assert _completed("postgresql", dict(own), monkeypatch) == own


def test_a_pool_without_a_size_has_room_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _completed("postgresql", {"pool": True}, monkeypatch)
    assert found["pool"] == {"max_size": 20}
    found = _completed("postgresql", {"pool": {"min_size": 2}}, monkeypatch)
    assert found["pool"] == {"min_size": 2}, "the site's own size stays, and is a check"


def test_sessions_of_postgresql_can_be_told_by_their_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _completed("postgresql", {}, monkeypatch) == {
        "fallback_application_name": own_session_name()
    }
