"""How an agent wants its runs to be treated, and which values are allowed.

Agents only declare this; their host applies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal

__all__ = [
    "HIGHEST_PRIORITY",
    "LONGEST_SECONDS",
    "LOWEST_PRIORITY",
    "NO_LIMITS",
    "Limits",
    "OnWorkerLoss",
    "Options",
]

OnWorkerLoss = Literal["fail", "requeue"]

LOWEST_PRIORITY: Final = -100
HIGHEST_PRIORITY: Final = 100
_MOST_ATTEMPTS: Final = 1000
LONGEST_SECONDS: Final = 366 * 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a run may take, in seconds; None is no limit.

    Attributes:
        deadline_seconds: from its first start on, however often it starts again.
        idle_seconds: without a sign of life: no call begun or ended, no streamed text, no
            ``progress()`` or ``log()``.
        call_seconds: in one guarded call.
    """

    deadline_seconds: float | None = None
    idle_seconds: float | None = None
    call_seconds: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each value that is not allowed, and what is."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (_is_duration(value) and value > 0):
                yield field.name, "It is a number of seconds above 0, up to a year, or None."


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Options:
    """How the host treats the runs of an agent; ``Registry.agent`` explains each option."""

    on_worker_loss: OnWorkerLoss = "fail"
    max_attempts: int = 3
    priority: int = 0
    max_concurrent: int | None = None
    queue_seconds: float | None = None
    limits: Limits = NO_LIMITS

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield pairs: a value that is not allowed, and a hint. Values may be of any type."""
        if self.on_worker_loss not in ("fail", "requeue"):
            yield f"on_worker_loss is {self.on_worker_loss!r}.", 'It is "fail" or "requeue".'
        if not _is_whole(self.max_attempts, 1, _MOST_ATTEMPTS):
            hint = f"It is an integer, 1 to {_MOST_ATTEMPTS}."
            yield f"max_attempts is {self.max_attempts!r}.", hint
        if not _is_whole(self.priority, LOWEST_PRIORITY, HIGHEST_PRIORITY):
            hint = f"It is an integer, {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}."
            yield f"priority is {self.priority!r}.", hint
        if self.max_concurrent is not None and not _is_whole(self.max_concurrent, 1):
            hint = "It is an integer of at least 1, or None for no limit."
            yield f"max_concurrent is {self.max_concurrent!r}.", hint
        if self.queue_seconds is not None and not _is_duration(self.queue_seconds):
            hint = "It is a number of seconds up to a year, 0 for no limit, or None."
            yield f"queue_seconds is {self.queue_seconds!r}.", hint
        for name, hint in self.limits.problems():
            yield f"{name} is {getattr(self.limits, name)!r}.", hint


def _is_whole(value: object, least: int, most: int | None = None) -> bool:
    return type(value) is int and least <= value and (most is None or value <= most)


def _is_duration(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LONGEST_SECONDS  # type: ignore[operator]
