"""Positions as text: read back as they were written, and nothing else is read."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.web.feed import Cursor, InvalidCursor

RUN = uuid.UUID(int=7)
SEQS = st.integers(0, 2**31 - 1)


@given(st.dictionaries(st.uuids(version=4), SEQS, max_size=30), st.uuids(version=4))
def test_a_tree_s_cursor_is_read_as_it_was_written(
    positions: dict[uuid.UUID, int], other: uuid.UUID
) -> None:
    text = Cursor().advanced(positions)
    assert text.replace("-", "").replace("_", "").isalnum()
    read = Cursor.read(text, RUN)
    assert {run: read.seen(run) for run in positions} == positions
    assert read.seen(other) == positions.get(other, 0)


@given(SEQS)
def test_a_number_is_a_position_in_the_run(seq: int) -> None:
    read = Cursor.read(str(seq), RUN)
    assert read.seen(RUN) == seq
    assert read.seen(uuid.UUID(int=8)) == 0


def test_a_tree_s_cursor_is_never_a_number() -> None:
    texts = [Cursor().advanced({RUN: seq}) for seq in range(1, 300)]
    assert not any(text.isdecimal() for text in [*texts, Cursor().advanced({})])


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "-1", "1.0", " 1", "\u0661", "\x00", str(2**31), "9" * 5_000),
        *("Ag", "AQAA", "A" * 9, "AQAAAAAAAP____8P"),
        Cursor().advanced({RUN: 300})[:-1],
        Cursor().advanced({RUN: 1}) + "\n",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(InvalidCursor):
        Cursor.read(text, RUN)


@given(st.text(max_size=60))
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidCursor):
        Cursor.read(text, RUN)


def test_more_runs_than_a_tree_can_have_are_refused() -> None:
    text = Cursor().advanced({uuid.UUID(int=n): 1 for n in range(20_001)})
    with pytest.raises(InvalidCursor):
        Cursor.read(text, RUN)
