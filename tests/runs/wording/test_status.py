"""How statuses show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runs.status import STOPPING, Status
from runs.wording.status import LOOKS, look, worker_look

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


def _at(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


def test_every_status_has_a_look_and_only_an_error_is_red() -> None:
    assert set(LOOKS) == {*Status, STOPPING}
    assert [name for name, look in LOOKS.items() if look.tone == "bad"] == ["error"]
    assert all(len(look.sign) == 1 for look in LOOKS.values())


def test_labels_are_those_of_the_brief() -> None:
    labels = {str(name): str(look.label) for name, look in LOOKS.items()}
    assert labels == {
        "queued": "Queued",
        "running": "Running",
        "stopping": "Stopping...",
        "stopped": "Stopped",
        "success": "Done",
        "error": "Error",
    }


def test_an_unknown_status_shows_by_its_name() -> None:
    assert look("paused").label == "paused"


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, "Alive"),
        ({"draining_at": _at(-60)}, "Draining"),
        ({"heartbeat_at": _at(-6)}, "Alive"),
        ({"heartbeat_at": _at(-8)}, "Silent"),
        ({"heartbeat_at": _at(-60), "draining_at": _at(-60)}, "Silent"),
        ({"heartbeat_at": _at(-60), "draining_at": _at(-60), "lost_at": _at(-1)}, "Gone"),
    ],
)
def test_a_worker_is_as_its_heartbeat_and_its_marks_say(fields: dict[str, str], label: str) -> None:
    worker = {"lost_at": None, "draining_at": None, "heartbeat_at": _at(0), **fields}
    now = datetime.fromisoformat(_at(0))
    assert worker_look(worker, now=now, renewed_every_seconds=5).label == label
