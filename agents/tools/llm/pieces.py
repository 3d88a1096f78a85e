"""One text that comes in pieces, each of which may end in the middle of a character.

JSON escapes write an emoji as two halves (surrogates), and some endpoints send each half in a piece
of its own.
"""

from __future__ import annotations

from agents.values.storable import clean_text

__all__ = ["TextPieces"]


class TextPieces:
    """Joins the pieces of one text. A half whose other half never comes becomes U+FFFD."""

    def __init__(self) -> None:
        self._whole: list[str] = []
        self._half = ""  # at the end of the last piece: its other half may still come
        self._length = 0

    def add(self, piece: str) -> str:
        """Add a piece; return what can be shown of it, and of a half that was held back."""
        if not piece:
            return ""
        piece = self._half + piece
        self._half = piece[-1:] if "\ud800" <= piece[-1:] <= "\udbff" else ""
        return self._keep(piece[:-1] if self._half else piece)

    def end(self) -> str:
        """Return what is still to be shown, now that no piece follows."""
        half, self._half = self._half, ""
        return self._keep(half)

    def _keep(self, text: str) -> str:
        text = clean_text(text)
        if text:
            self._whole.append(text)
            self._length += len(text)
        return text

    def __str__(self) -> str:
        self._whole = ["".join(self._whole)]  # so that a second time takes no time
        return self._whole[0] + clean_text(self._half)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __len__(self) -> int:
        return self._length + len(self._half)
