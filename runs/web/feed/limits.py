"""What the readers of one process may take of it: places, and bytes that they have not read yet.

A place is a feed that is open, or a request that waits for the end of a run. Each process counts
its own, by the user who reads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

from runs.conf import conf

from .frames import LARGE_CHARACTERS, Frame
from .rights import Viewer, Why

__all__ = ["NoPlace", "Place", "Unsent"]

What = Literal["feeds", "waiters"]

MOST_UNSENT_BYTES = 256 * 1024 * 1024  # of all readers of a process
MOST_UNSENT_BYTES_OF_USER = 32 * 1024 * 1024


_WORDS: dict[What, str] = {"feeds": "feeds open", "waiters": "requests waiting"}


class NoPlace(Exception):
    """A user has as many places as one may have."""

    def __init__(self, what: What, used: int, allowed: int) -> None:
        super().__init__(f"You have {used} {_WORDS[what]} in this process; {allowed} may be.")
        self.what = what
        self.used = used
        self.allowed = allowed


class Place:
    """A user's place, until ``leave`` is called or no one holds it any longer. For any thread.

    Raises:
        NoPlace: the user has no place left.
    """

    def __init__(self, what: What, user_id: Any) -> None:
        options = conf()
        allowed = options.max_feeds_per_owner if what == "feeds" else options.max_waiters_per_owner
        self._key = (what, user_id)
        self._is_taken = False
        with _lock:
            used = _taken[self._key]
            if allowed and used >= allowed:
                raise NoPlace(what, used, allowed)
            _taken[self._key] += 1
            self._is_taken = True

    def leave(self) -> None:
        """Give the place back. May be repeated."""
        with _lock:
            if not self._is_taken:
                return
            self._is_taken = False
            _taken[self._key] -= 1
            if not _taken[self._key]:
                del _taken[self._key]

    def __del__(self) -> None:
        # A stream whose client leaves before it begins is never started, and so never ends.
        self.leave()


_taken: Counter[tuple[What, Any]] = Counter()
_lock = threading.RLock()  # a garbage collection, in any line, may call __del__


class _Reader(Protocol):
    """What is known here of ``hub.Reader``."""

    viewer: Viewer

    def close_for(self, why: Why) -> None: ...


class Unsent:
    """The bytes that readers are being sent. Used on the hub's loop alone.

    A large frame counts once, however many readers share it. Batches of small frames count for the
    process alone: a user's places bound them. A reader for whom there is no room makes room: the
    one that has been sent the same for the longest time is closed, of the same user if it is the
    user who has too much.
    """

    def __init__(self) -> None:
        self._sending: dict[_Reader, list[_Piece]] = {}  # the longest waiting first
        self._holders: Counter[tuple[Any, int]] = Counter()
        self._bytes: Counter[Any] = Counter()  # of each user, and of all

    @property
    def total_bytes(self) -> int:
        return self._bytes[_ALL]

    @contextmanager
    def sending(self, reader: _Reader, frames: Sequence[Frame]) -> Iterator[None]:
        """Count ``frames`` as unsent, and close readers that leave no room for them."""
        pieces = self._sending[reader] = _pieces(reader, frames)
        for piece in pieces:
            for key in piece.keys:
                self._holders[key, piece.id] += 1
                if self._holders[key, piece.id] == 1:
                    self._bytes[key] += piece.size
        try:
            self._make_room(reader.viewer.user_id, MOST_UNSENT_BYTES_OF_USER, reader)
            self._make_room(_ALL, MOST_UNSENT_BYTES, reader)
            yield
        finally:
            self._remove(reader)

    def _make_room(self, key: Any, most: int, reader: _Reader) -> None:
        if self._bytes[key] <= most:
            return
        for other in [one for one in self._sending if one is not reader]:
            if self._bytes[key] <= most:
                return
            if key in (_ALL, other.viewer.user_id):
                self._remove(other)
                other.close_for("unread")

    def _remove(self, reader: _Reader) -> None:
        for piece in self._sending.pop(reader, ()):
            for key in piece.keys:
                self._holders[key, piece.id] -= 1
                if not self._holders[key, piece.id]:
                    del self._holders[key, piece.id]
                    self._bytes[key] -= piece.size
                    if not self._bytes[key]:
                        del self._bytes[key]


class _Piece(NamedTuple):
    """Bytes that are held for readers; ``keys`` are who has to answer for them."""

    id: int
    size: int
    keys: tuple[Any, ...]


_ALL = object()


def _pieces(reader: _Reader, frames: Sequence[Frame]) -> list[_Piece]:
    small = 0
    pieces = []
    for frame in frames:
        size = len(frame.data)
        if size > LARGE_CHARACTERS:
            pieces.append(_Piece(id(frame.data), size, (reader.viewer.user_id, _ALL)))
        else:
            small += size
    return [*pieces, _Piece(id(reader), small, (_ALL,))]
