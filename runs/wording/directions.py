"""Characters that turn the direction of the text after them (Unicode, UAX 9)."""

from __future__ import annotations

from typing import Final

__all__ = ["DIRECTIONS", "upright"]

#: Marks, embeddings, overrides and isolates. With them a text makes its neighbours read otherwise.
DIRECTIONS: Final = frozenset(
    {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
)
_SHOWN: Final = dict.fromkeys(DIRECTIONS, "\ufffd")


def upright(text: object) -> str:
    """Return what a user wrote, to stand in a sentence of ours: U+FFFD for each of them."""
    return str(text).translate(_SHOWN)
