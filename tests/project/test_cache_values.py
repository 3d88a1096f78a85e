"""Values on their way to Redis and back."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from project.cache_values import JsonValues

VALUES = JsonValues()


@pytest.mark.parametrize(
    "value",
    [
        0,
        -5,
        10**30,
        True,
        False,
        None,
        1.5,
        "",
        "é 😀",
        [1.5, 2.5],
        {"a": [None]},
        "12",
        "1.0",
    ],
)
def test_a_value_comes_back(value: Any) -> None:
    stored = VALUES.dumps(value)
    # Redis stores an integer as its digits.
    found = VALUES.loads(stored if isinstance(stored, bytes) else str(stored).encode())
    assert (found, type(found)) == (value, type(value))


def test_what_incr_counts_is_no_json() -> None:
    assert VALUES.dumps(7) == 7


def test_a_tuple_comes_back_as_a_list() -> None:
    assert VALUES.loads(VALUES.dumps((1, 2))) == [1, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [b"x", {1}, object(), datetime.now(UTC), Decimal(1), float("nan")]
)
def test_what_json_has_not_is_refused_when_it_is_stored(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        VALUES.dumps(value)


@pytest.mark.parametrize(
    "stored", [pickle.dumps([1]), b"", b"\xff", b"[" * 100_000, b"9" * 10_000, b"{", b"NaN,"]
)
def test_what_is_no_json_is_a_value_error(stored: bytes) -> None:
    with pytest.raises(ValueError):
        VALUES.loads(stored)
