"""Parts never lose text and never outgrow their room."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.samples.splitting import split

#: Text with many borders, and text with hardly any.
texts = st.one_of(
    st.text(),
    st.text(alphabet="ab \n.!?\"')\t。…"),
    st.lists(st.text(alphabet="word. ", max_size=80)).map("\n\n".join),
)


@given(text=texts, limit=st.integers(min_value=1, max_value=24))
def test_joined_parts_are_the_text_and_each_fits(text: str, limit: int) -> None:
    parts = list(split(text, limit))

    assert "".join(parts) == text
    assert all(0 < len(part) <= limit for part in parts)


@given(text=texts, limit=st.integers(min_value=2, max_value=24))
@example(text="A\n\nparagraph early", limit=12)
def test_two_neighbours_never_fit_into_less_than_half_the_room_each(text: str, limit: int) -> None:
    """Each part but the last is at least half full, so a text has no more parts than it needs."""
    parts = list(split(text, limit))

    assert all(len(part) >= limit // 2 for part in parts[:-1])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One two.\n\nThree four. Five six.", ["One two.\n\n", "Three four. ", "Five six."]),
        ("One two three\nfour. Five", ["One two three\n", "four. Five"]),
        ("One two three. Four five", ["One two three. ", "Four five"]),
        ('"One two!" Three four', ['"One two!" ', "Three four"]),
        ("一二三四五六七八。一二三四五六七八九", ["一二三四五六七八。", "一二三四五六七八九"]),
    ],
    ids=["paragraph", "line", "sentence", "closing quote", "full-width stop"],
)
def test_a_part_ends_where_a_reader_would_pause(text: str, parts: list[str]) -> None:
    assert list(split(text, 16)) == parts


def test_a_giant_line_without_a_border_is_cut_where_the_room_ends() -> None:
    assert [len(part) for part in split("x" * 100_000, 12_000)] == [12_000] * 8 + [4_000]


def test_a_text_without_characters_has_no_parts() -> None:
    assert list(split("", 10)) == []


def test_a_part_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        list(split("text", 0))
