"""What the rows get from the matrix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

__all__ = ["Hear", "Look", "SyncLook"]

#: The tool that the model asks for: ``look(what: str) -> str``.
Look: TypeAlias = Callable[[str], Awaitable[str]]
SyncLook: TypeAlias = Callable[[str], str]
#: Takes each piece of a streamed text.
Hear: TypeAlias = Callable[[str], None]
