"""Replace public methods of a library's classes, so that it can be undone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["Replacements"]


class Replacements:
    """The methods that were replaced."""

    def __init__(self) -> None:
        self._replaced: list[tuple[type, str, Any]] = []

    def replace(self, owner: type, name: str, make: Callable[[Any], Any]) -> None:
        """Let ``make(the method)`` be the method ``name`` of ``owner``."""
        original = getattr(owner, name)
        self._replaced.append((owner, name, original))
        setattr(owner, name, functools.wraps(original)(make(original)))

    def undo(self) -> None:
        while self._replaced:
            owner, name, original = self._replaced.pop()
            setattr(owner, name, original)
