"""Durations and instants, as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runs.wording.time import clock, duration, is_time_zone

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


def _at(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 ms"),
        (0.0129, "12 ms"),
        (0.9999, "999 ms"),
        (3.26, "3.2 s"),
        (9.99, "9.9 s"),
        (41, "41 s"),
        (59.99, "59 s"),
        (102, "1:42"),
        (3723, "1:02:03"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_time_of_another_day_has_its_date() -> None:
    assert clock(_at(0)) == "14:03:22"
    assert clock(_at(0), now=T0 + timedelta(hours=1)) == "14:03:22"
    assert clock(_at(0), now=T0 + timedelta(days=1)) == "2024-05-06 14:03:22"


def test_what_is_no_time_zone() -> None:
    assert is_time_zone("Europe/Berlin")
    assert not is_time_zone("../../etc/passwd")
