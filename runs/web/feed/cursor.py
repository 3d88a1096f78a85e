"""A position in the logs of a run, or of a tree of runs, as text that a client only hands back.

For one run it is the number of the last event seen. Each run of a tree numbers its own events, and
there is no order between the runs. So a tree's cursor has six bytes of each run's id (they are
random, and a tree has few runs), and a number.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator, Mapping

__all__ = ["Cursor", "InvalidCursor"]

LARGEST_SEQ = 2**31 - 1
MOST_RUNS = 20_000
_VERSION = b"\x01"
_KEY_BYTES = 6


class InvalidCursor(ValueError):
    """The text is no cursor."""


class Cursor:
    """How far a reader has come in each run."""

    def __init__(self, seen: Mapping[bytes, int] | None = None) -> None:
        self._seen = dict(seen or {})

    @classmethod
    def read(cls, text: str, run: uuid.UUID) -> Cursor:
        """Read a client's position in a feed of ``run``: a number, or a tree's cursor.

        Raises:
            InvalidCursor: it is neither.
        """
        if text.isascii() and text.isdecimal():
            if len(text) > len(str(LARGEST_SEQ)) or int(text) > LARGEST_SEQ:
                raise InvalidCursor(f"a number up to {LARGEST_SEQ} is expected")
            return cls({_key(run): int(text)})
        return cls(dict(_unpack(text)))

    def seen(self, run: uuid.UUID) -> int:
        """Return the last event seen of a run, or 0."""
        return self._seen.get(_key(run), 0)

    def advanced(self, positions: Mapping[uuid.UUID, int]) -> str:
        """Return the cursor of a tree: run -> the last event seen.

        The other runs keep their positions: a reader may leave again before the runs of the tree
        are known here.
        """
        seen = self._seen | {_key(run): seq for run, seq in positions.items()}
        packed = b"".join(key + _varint(seq) for key, seq in seen.items() if seq)
        return base64.urlsafe_b64encode(_VERSION + packed).decode().rstrip("=")


def _key(run: uuid.UUID) -> bytes:
    return run.bytes[-_KEY_BYTES:]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _unpack(text: str) -> Iterator[tuple[bytes, int]]:
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidCursor("this is no cursor") from error
    if packed[:1] != _VERSION:
        raise InvalidCursor("this is no cursor")
    at, count = 1, 0
    while at < len(packed):
        key, at = packed[at : at + _KEY_BYTES], at + _KEY_BYTES
        number = shift = 0
        while True:
            if at >= len(packed) or shift > 28:
                raise InvalidCursor("this cursor was cut off")
            byte, at = packed[at], at + 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                break
        count += 1
        if count > MOST_RUNS or number > LARGEST_SEQ:
            raise InvalidCursor("this is no cursor")
        yield key, number
